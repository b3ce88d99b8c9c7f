"""Where pretrained models lie: a local package, the Hugging Face cache, and only then the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mllm_plugin.errors import ModelNotFoundError
from mllm_plugin.extras import needs


class Carrier(NamedTuple):
    """A package that carries a model: its module, what to use inside, the file that tells, its sha256."""

    module: str
    inside: str
    file: str
    sha256: str


def packaged(name: str, carriers: Mapping[str, Carrier]) -> Path | None:
    """What a local package carries for a model name; None where there is no such package.

    Raises:
        ModelNotFoundError: The package carries something else.
    """
    carrier = carriers.get(name)
    spec = importlib.util.find_spec(carrier.module) if carrier else None  # does not run its code
    if carrier is None or spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent
    found = file_sha256(path / carrier.file) if (path / carrier.file).is_file() else "no file"
    if found != carrier.sha256:
        raise ModelNotFoundError(
            f"package {carrier.module} does not carry {name} as expected: sha256 of {carrier.file} expected "
            f"{carrier.sha256}, got {found}; reinstall it"
        )
    return path / carrier.inside


def from_hub(
    name: str, patterns: Sequence[str], *, complete: Callable[[Path], bool], looked: Sequence[str], hint: str
) -> Path:
    """The folder of a model in the Hugging Face cache, fetched from the hub when it is not there.

    Args:
        name: Of the model.
        patterns: Files to fetch.
        complete: Whether a cached folder has all that is needed.
        looked: Where it was looked for before, and what was found there; for the error.
        hint: What to do when it is nowhere; for the error.

    Raises:
        ModelNotFoundError: The hub cannot be asked (HF_HUB_OFFLINE=1 is honoured) or does not have it.
    """
    with needs("local", f"the model {name}, which no local place has,"):
        from huggingface_hub import snapshot_download
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
        if complete(cached):
            return cached
        not_cached = "incomplete there"
    except Exception as error:
        not_cached = type(error).__name__
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:
        places = [*looked, f"the Hugging Face cache: {not_cached}", f"the hub: {type(error).__name__}"]
        listed = "; ".join(f"({number}) {place}" for number, place in enumerate(places, 1))
        raise ModelNotFoundError(
            f"model {name!r} was not found. Looked at: {listed}. To go on: {hint}"
        ) from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file; read once per process while the file stays as it is."""
    found = path.stat()
    return _sha256(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, changed: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Inside, transformers shows no progress bars while it loads a model."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
