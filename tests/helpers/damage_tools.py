"""Ways to damage a saved pair of safetensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

LEVEL = 100_000_000
VALUES = [None, True, -1, 0, 2, 0.5, LEVEL, "", "attention", "\ud800", [], [1], {}, {"2": "attention"}]
KINDS = ["float64", "int32", "int8", "bool", "complex64"]
Damage = Callable[[Path, str], None]


def _tensors(folder: Path, name: str) -> tuple[Path, dict[str, np.ndarray], dict[str, str]]:
    path = folder / f"{name}.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    return path, load_file(path), metadata


@st.composite
def tensor_damages(draw: Any) -> Damage:
    """Renamed, dropped, added, reshaped, of another kind, not finite; the checksum goes or stays."""
    what = draw(st.sampled_from(["rename", "drop", "add", "reshape", "kind", "value"]))
    place, spot = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    to = draw(
        st.sampled_from(["x", "space.idf", f"encoder.2.{LEVEL}.seeds", f"ranker.{LEVEL}.map", "leaf.x"])
    )
    kind, keeps = draw(st.sampled_from(KINDS)), draw(st.booleans())
    number = draw(st.sampled_from([np.nan, np.inf, -np.inf]))

    def damage(folder: Path, name: str) -> None:
        path, tensors, metadata = _tensors(folder, name)
        key = sorted(tensors)[place % len(tensors)]
        value = tensors.pop(key)
        if what == "rename":
            tensors[to] = value
        elif what == "add":
            tensors |= {key: value, to: value}
        elif what == "reshape":
            tensors[key] = value.reshape(1, *value.shape) if spot % 2 else value.ravel()[: value.size // 2]
        elif what == "kind":
            tensors[key] = value.astype(kind)
        elif what == "value":
            tensors[key] = value.astype(np.float32)
            # an infinite slack is one that drops nothing: no damage
            tensors[key].ravel()[spot % value.size] = np.nan if key.endswith(".slack") else number
        save_file(tensors, path, metadata=metadata if keeps else None)

    return damage


@st.composite
def json_damages(draw: Any) -> Damage:
    """A key that is gone, has another value, or is new."""
    place, value = draw(st.integers(0, 10**6)), draw(st.sampled_from(VALUES))
    what = draw(st.sampled_from(["drop", "set", "add"]))

    def damage(folder: Path, name: str) -> None:
        path = folder / f"{name}.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        key = sorted(config)[place % len(config)]
        if what == "drop":
            del config[key]
        else:
            config[key if what == "set" else "new"] = value
        path.write_text(json.dumps(config), encoding="utf-8")

    return damage


@st.composite
def byte_damages(draw: Any) -> Damage:
    """Cut short, a bit turned, emptied, no file but a folder, gone, or the other file's bytes."""
    what = draw(st.sampled_from(["cut", "turn", "turn", "empty", "folder", "gone", "other"]))
    place, suffix = draw(st.integers(0, 10**6)), draw(st.sampled_from([".json", ".safetensors"]))

    def damage(folder: Path, name: str) -> None:
        path = folder / f"{name}{suffix}"
        data = bytearray(path.read_bytes())
        if what == "turn":
            data[place % len(data)] ^= 1 << place % 8
        elif what == "other":
            data = bytearray(
                (folder / f"{name}{'.json' if suffix != '.json' else '.safetensors'}").read_bytes()
            )
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what != "gone":
            path.write_bytes(b"" if what == "empty" else data[: place % len(data)] if what == "cut" else data)

    return damage


damages = st.one_of(tensor_damages(), json_damages(), byte_damages())
