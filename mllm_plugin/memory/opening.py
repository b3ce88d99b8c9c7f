"""Opening a memory, and what opens it again where it is pickled or copied."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory.handle import Handle
from mllm_plugin.memory.hierarchies import DEFAULT, choose_hierarchy, reopening
from mllm_plugin.memory.recognition import recognised
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.database import Database
from mllm_plugin.store.decoded import HierarchyInUse
from mllm_plugin.store.settings import Settings, load_settings, save_settings


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
