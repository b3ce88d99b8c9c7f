"""Opening a memory, and what opens it again where it is pickled or copied."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any, Literal

from mllm_plugin.config import LeafConfig, MemoryConfig
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.encoders.identity import AGREEMENT, Sample, agreement, is_anonymous, sample_of
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError, InvalidTypeError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker, read_weights, shipped_weights
from mllm_plugin.memory.handle import Handle
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.database import Database
from mllm_plugin.store.decoded import HierarchyInUse
from mllm_plugin.store.settings import Settings, load_probes, load_settings, save_settings

DEFAULT: Literal["default"] = "default"


def open_memory(
    folder: Path,
    encoder: TextEncoder | None,
    config: MemoryConfig | None,
    hierarchy: str | Path | Hierarchy,
    device: Any = None,
    **options: Any,
) -> Handle:
    """Creates the memory in a folder, or opens the one that is there; see `MemoryIndex.open`.

    Args:
        encoder: None for an existing memory whose texts are not read.
        device: Where searches compare embeddings; None for the CPU.
        options: Of `Database`.
    """
    database = Database(folder, **options)
    try:
        settings, is_new = load_settings(database), False
        if settings is None:
            chosen = config or MemoryConfig()
            first = None
            if encoder is not None:
                first = choose_hierarchy(hierarchy, encoder.fingerprint, chosen.leaf, dim=encoder.dim)
            settings, is_new = save_settings(database, chosen, encoder, first)
        if encoder is not None and not is_new:
            encoder = recognised(encoder, settings, database)
        resolved = settings.resolve(config)
        used = _hierarchies(hierarchy, settings, resolved, folder)
        encoder = encoder or VectorsOnly(settings.dim, settings.fingerprint)
        return Handle(database, encoder, resolved, used, device)
    except BaseException:
        database.close()
        raise


def options_of(memory: Handle, encoder: Any) -> dict[str, Any]:
    """What opens the memory again as it is, with this encoder if it has one."""
    return {
        "encoder": None if memory.given is None else encoder,
        "config": memory.config,
        "hierarchy": reopening(memory.hierarchy),
        "reranker": memory.reranker,
        "timeout": memory.database.timeout,
        "read_only": memory.database.read_only,
        "device": None if memory.device is None else str(memory.device),
    }


def pickled_options(memory: Handle) -> dict[str, Any]:
    """`options_of`, for another process.

    Raises:
        InvalidTypeError: The encoder or the hierarchy cannot be pickled.
    """
    options = options_of(memory, memory.given)
    try:
        pickle.dumps((options["encoder"], options["hierarchy"], options["reranker"]))
    except Exception as error:
        raise InvalidTypeError(
            f"the memory at {memory.path} cannot be pickled, its encoder, hierarchy or reranker "
            f"cannot: {error}. Pickle its path, and open it where it is needed with "
            f"MemoryIndex.open(path, encoder=…); or open it here with a model's name"
        ) from error
    return options


def absolute(encoder: Any) -> Any:
    """A folder's full path, for a process that works in another one; anything else as it is."""
    is_folder = isinstance(encoder, str | Path) and os.path.isdir(encoder)
    return os.path.abspath(encoder) if is_folder else encoder


def _hierarchies(
    given: str | Path | Hierarchy, settings: Settings, config: MemoryConfig, folder: Path
) -> HierarchyInUse:
    """Follows the stored hierarchy; one that the caller names must be the same."""
    followed = HierarchyInUse(config.leaf)
    if given == DEFAULT:
        return followed
    chosen = choose_hierarchy(given, settings.fingerprint, config.leaf, dim=settings.dim)
    if chosen.fingerprint != settings.hierarchy:
        raise InvalidInputError(
            f"the nodes of {folder} were folded by hierarchy {settings.hierarchy!r}, got "
            f"{chosen.fingerprint!r}; open the memory without `hierarchy` and call install(…) to change it"
        )
    followed.announce(chosen)
    return followed


# -- which hierarchy it works with


def choose_hierarchy(given: str | Path | Hierarchy, encoder: str, leaf: LeafConfig, *, dim: int) -> Hierarchy:
    """Builds the hierarchy that a caller names, and checks that it fits.

    Args:
        given: "default" for the package's trained weights (identity when it has none for the encoder),
            "identity", a folder with trained weights, or a `Hierarchy`.
        encoder: Fingerprint of the memory's encoder.
        leaf: Settings of the leaf ranker.
        dim: Width of the memory's embeddings.

    Raises:
        DimensionMismatchError: A module is for embeddings of another width.
        EncoderMismatchError: The weights were trained for another encoder.
        InvalidInputError: The weights are damaged, or a module fails on such embeddings.
        InvalidTypeError: It is none of these.
        NotFoundError: The folder holds no weights.
    """
    if isinstance(given, Hierarchy):
        _check_encoder(given, encoder)
        given.check(dim)
        return given
    if not isinstance(given, str | Path):
        raise InvalidTypeError(
            f"hierarchy must be 'default', 'identity', a folder or a Hierarchy, got {type(given).__name__}"
        )
    weights = None
    if given == DEFAULT:
        weights = shipped_weights(encoder)
    elif given != IDENTITY:
        weights = read_weights(given)
    if weights is None:
        return Hierarchy(leaf_ranker=LeafRanker(leaf))
    chosen = Hierarchy.from_weights(weights, leaf=leaf)
    _check_encoder(chosen, encoder)
    chosen.check(dim)
    return chosen


def reopening(hierarchy: Hierarchy) -> str | Hierarchy:
    """What opens a memory with this hierarchy again: "default", but for modules that no file can hold."""
    if hierarchy.fingerprint == IDENTITY:
        return DEFAULT
    if hierarchy.weights is None:
        return hierarchy
    try:
        Hierarchy.from_weights(hierarchy.weights)
    except InvalidInputError:  # modules of the caller's own classes
        return hierarchy
    return DEFAULT


def _check_encoder(hierarchy: Hierarchy, encoder: str) -> None:
    weights = hierarchy.weights
    if weights is not None and weights.config.encoder != encoder:
        raise EncoderMismatchError(
            f"the hierarchy was trained for encoder {weights.config.encoder!r}, the memory has {encoder!r}; "
            f"train one for it with `mllm train`, or use hierarchy='identity'"
        )


# -- whether the encoder is the one that it was written with


def recognised(encoder: TextEncoder, settings: Settings, database: Database) -> TextEncoder:
    """The encoder under the name that the memory has for it.

    A fingerprint that somebody gave decides alone. One that was made up of class and settings may be the same
    for two models and differ for one, so there the vectors decide.

    Raises:
        EncoderMismatchError: It is another one.
    """
    named = encoder.fingerprint == settings.fingerprint
    if is_anonymous(encoder) and encoder.dim == settings.dim:
        with database.read() as tx:
            stored = load_probes(tx, settings.dim)
        if stored is not None:
            cosine = agreement(encoder, stored)
            if cosine < AGREEMENT:
                raise EncoderMismatchError(_other_vectors(encoder, settings, stored, cosine, database))
            return encoder if named else _renamed(encoder, settings.fingerprint)
    if not named or encoder.dim != settings.dim:
        widths = "" if encoder.dim == settings.dim else f" ({encoder.dim} dimensions for {settings.dim})"
        raise EncoderMismatchError(
            f"the memory at {database.folder} was written with encoder {settings.fingerprint!r}, got "
            f"{encoder.fingerprint!r}{widths}{_way_out(encoder, settings)}"
        )
    return encoder


def _renamed(encoder: TextEncoder, fingerprint: str) -> TextEncoder:
    """A copy, since the caller may have the encoder in other memories."""
    known = copy.copy(encoder)
    known.fingerprint = fingerprint
    return known


def _other_vectors(
    encoder: TextEncoder, settings: Settings, stored: Sample, cosine: float, database: Database
) -> str:
    problem = (
        f"the memory at {database.folder} was written with encoder {settings.fingerprint!r}, and what "
        f"{encoder.fingerprint!r} makes of {len(stored.texts)} texts differs from what is stored of them: "
        f"cosine {cosine:.3f}, expected {AGREEMENT} or more"
    )
    again = agreement(encoder, sample_of(encoder))
    if again < AGREEMENT:
        problem += f" (it gives other vectors for the same text each time it is asked, cosine {again:.3f})"
    return problem + _way_out(encoder, settings)


def _way_out(encoder: TextEncoder, settings: Settings) -> str:
    rescue = ""
    if hasattr(encoder, "anonymous") and encoder.dim == settings.dim:
        rescue = (
            f"; if you know that it is the same model, say so with FrameworkEncoder(model, "
            f"fingerprint={settings.fingerprint!r})"
        )
    return (
        f". Vectors of two encoders do not compare: open it with the first, or make a copy whose texts are "
        f"embedded anew with reembed(memory, path, encoder) or `mllm reembed`{rescue}"
    )
