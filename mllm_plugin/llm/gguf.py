"""A GGUF file as a folder that transformers loads at once, dequantised once and kept in the user's cache."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.extras import needs
from mllm_plugin.folder import publish
from mllm_plugin.models.files import check_weights, is_pointer
from mllm_plugin.models.pretrained import file_sha256

SOURCE_NAME = "source.json"
_READING = threading.Lock()


def user_cache() -> Path:
    """Folder of this package's files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mllm-plugin"


def dequantised(file: Path, *, progress: bool = False) -> Path:
    """Returns the folder with the dequantised model; makes it at the first call, which takes a while.

    Args:
        file: The GGUF file.
        progress: Say on stderr when it is made.

    Raises:
        MissingDependencyError: The packages that read GGUF are not installed.
        InvalidInputError: The file is no GGUF model that transformers knows.
    """
    digest = file_sha256(file)
    cache = user_cache() / "llm"
    if (cache / digest).is_dir():
        return cache / digest
    if progress:
        tqdm.write(f"Dequantising {file.name} into {cache}, once", file=sys.stderr)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=cache))
    except OSError as error:
        return _only_now(file, digest, cache, error)
    try:
        _convert(file, digest, work)
        return _moved(work, cache / digest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _moved(work: Path, target: Path) -> Path:
    """Renames in one step; when another process was first, its copy is as good."""
    try:
        publish(work, target)
    except OSError:
        if not target.is_dir():
            raise
    return target


def _only_now(file: Path, digest: str, cache: Path, error: OSError) -> Path:
    warnings.warn(
        f"the dequantised model cannot be kept in {cache} ({error}), so every start takes as long as the "
        f"first; let XDG_CACHE_HOME name a folder that can be written",
        stacklevel=4,
    )
    work = Path(tempfile.mkdtemp(prefix="mllm-llm-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    _convert(file, digest, work)
    return work


def _convert(file: Path, digest: str, target: Path) -> None:
    with needs("llm", "reading a GGUF file"):
        import accelerate  # noqa: F401 - transformers takes it and gguf for the work
        import gguf  # noqa: F401
    tokenizer, model = _read(file)
    model.hf_quantizer = None  # what is left of the quantised form would be saved with it
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    source = {"file": file.name, "sha256": digest}
    (target / SOURCE_NAME).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _read(file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(file.parent), file.name
    try:
        with _read_once():
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # of a damaged file the reader raises whatever its bytes lead to
        raise InvalidInputError(
            f"{file} cannot be read as a GGUF model that transformers knows: {_reason(file, error)}. Fetch "
            f"it again, or use the model's original in Hugging Face format"
        ) from error
    model, report = loaded
    check_weights(name, file.parent, report)
    return tokenizer, model


def _reason(file: Path, error: Exception) -> str:
    if is_pointer(file):
        return "it is a Git LFS pointer and not the file itself (run `git lfs pull` there)"
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


@contextmanager
def _read_once() -> Iterator[None]:
    """Halves the time: transformers parses the file three times, and names tensors anew for every layer."""
    import gguf

    with _READING:
        slow = gguf.GGUFReader, gguf.get_tensor_name_map
        gguf.GGUFReader, gguf.get_tensor_name_map = map(lru_cache(maxsize=1), slow)  # type: ignore[misc]
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map = slow  # type: ignore[misc]
