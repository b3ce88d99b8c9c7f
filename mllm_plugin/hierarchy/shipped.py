"""Trained weights that come with the package, by the encoder that they were trained for."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from mllm_plugin.hierarchy.weights import CONFIG_NAME, TENSORS_NAME, Weights, parse_weights

_FOLDER = "trained"


@lru_cache(maxsize=8)
def shipped_weights(encoder: str) -> Weights | None:
    """Weights for an encoder by its fingerprint; None when the package has none."""
    folder = files("mllm_plugin") / _FOLDER
    for source in folder.iterdir() if folder.is_dir() else ():
        if (source / CONFIG_NAME).is_file():
            text = (source / CONFIG_NAME).read_bytes()
            if f'"{encoder}"'.encode() in text:
                return parse_weights(text, (source / TENSORS_NAME).read_bytes(), source.name)
    return None
