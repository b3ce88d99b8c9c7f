"""A hierarchy's weights as bytes: safetensors for the numbers, JSON for the rest, in a folder or a memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mllm_plugin.errors import InvalidInputError, NotFoundError
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.hierarchy.learned import AttentionLevelEncoder, MappedRanker

TENSORS_NAME = "hierarchy.safetensors"
CONFIG_NAME = "hierarchy.json"
_LEAF = "leaf."
_HALF_FROM = 1024  # tensors of at least so many numbers are kept as fp16
_KINDS: Mapping[str, Any] = {"attention": AttentionLevelEncoder, "mapped": MappedRanker}


class WeightsConfig(BaseModel):
    """What goes with the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: int = 1
    """Of this layout."""
    encoder: str
    """Fingerprint of the Encoder 1 that the modules were trained for."""
    level_encoders: dict[int, str] = {}
    """Kind of module by level."""
    rankers: dict[int, str] = {}
    """Kind of module by level."""
    documents: tuple[str, ...] = ()
    """Marks of the user's documents that the training saw, see `document_mark`."""
    about: dict[str, Any] = {}
    """Data, command, seeds, figures; for people."""


@dataclass(frozen=True)
class Weights:
    """Trained weights as they are stored.

    Attributes:
        config: What they are.
        tensors: Safetensors bytes.
    """

    config: WeightsConfig
    tensors: bytes

    @property
    def fingerprint(self) -> str:
        """Changes whenever a node's embedding or a score would."""
        kinds = json.dumps([self.config.level_encoders, self.config.rankers], sort_keys=True)
        return "learned:" + hashlib.sha256(kinds.encode() + self.tensors).hexdigest()[:32]

    def write(self, folder: str | Path) -> None:
        """Writes both files."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / TENSORS_NAME).write_bytes(self.tensors)
        text = json.dumps(self.config.model_dump(mode="json"), indent=2)
        (target / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def document_mark(namespace: tuple[str, ...], document_id: str) -> str:
    """A hash that tells a document again without naming it, so that erasing the document erases its name."""
    name = "\x1f".join((*namespace, document_id)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def read_weights(folder: str | Path) -> Weights:
    """Reads both files of a folder.

    Raises:
        NotFoundError: One is missing.
        InvalidInputError: They cannot be read as weights.
    """
    source = Path(folder)
    for name in (TENSORS_NAME, CONFIG_NAME):
        if not (source / name).is_file():
            raise NotFoundError(
                f"no trained hierarchy in {source}: {name} is missing; `mllm train` makes one"
            )
    return parse_weights(
        (source / CONFIG_NAME).read_text(encoding="utf-8"), (source / TENSORS_NAME).read_bytes(), str(source)
    )


def parse_weights(config: str, tensors: bytes, where: str) -> Weights:
    """Checks JSON and safetensors.

    Raises:
        InvalidInputError: They cannot be read as weights.
    """
    try:
        weights = Weights(WeightsConfig.model_validate_json(config), tensors)
        load(tensors)
    except (ValidationError, SafetensorError) as error:
        raise InvalidInputError(f"the hierarchy's weights in {where} cannot be read: {error}") from error
    return weights


def weights_of(
    level_encoders: Mapping[int, LevelEncoder],
    rankers: Mapping[int, Ranker],
    leaf: Mapping[str, NDArray[np.float32]],
    *,
    encoder: str,
    about: Mapping[str, Any],
    documents: Sequence[str] = (),
) -> Weights:
    """Packs modules that have `kind` and `tensors`.

    Raises:
        InvalidInputError: A module has none.
    """
    groups: dict[str, Mapping[int, Any]] = {"encoder": level_encoders, "ranker": rankers}
    named = {f"{_LEAF}{name}": value for name, value in leaf.items()}
    for group, modules in groups.items():
        for level, module in modules.items():
            if not module.kind:
                raise InvalidInputError(
                    f"{type(module).__name__} of level {level} cannot be saved: it needs `kind` and `tensors`"
                )
            named |= {f"{group}.{level}.{name}": value for name, value in module.tensors.items()}
    config = WeightsConfig(
        encoder=encoder,
        level_encoders={level: module.kind for level, module in level_encoders.items()},
        rankers={level: module.kind for level, module in rankers.items()},
        documents=tuple(documents),
        about=dict(about),
    )
    return Weights(config, save({name: _stored(value) for name, value in sorted(named.items())}))


def modules_of(
    weights: Weights, kinds: Mapping[str, Any]
) -> tuple[dict[int, Any], dict[int, Any], dict[str, NDArray[np.float32]] | None]:
    """Level encoders, rankers, and the leaf ranker's tensors (None when it has none)."""
    tensors = {name: value.astype(np.float32) for name, value in load(weights.tensors).items()}
    known = {**_KINDS, **kinds}

    def build(group: str, chosen: Mapping[int, str]) -> dict[int, Any]:
        return {
            level: _kind(known, kind)(_below(tensors, f"{group}.{level}.")) for level, kind in chosen.items()
        }

    leaf = _below(tensors, _LEAF)
    encoders = build("encoder", weights.config.level_encoders)
    return encoders, build("ranker", weights.config.rankers), leaf or None


def _kind(known: Mapping[str, Any], kind: str) -> Any:
    if kind not in known:
        raise InvalidInputError(
            f"the weights hold a module of kind {kind!r}, which is none of {', '.join(sorted(known))}; "
            f"pass its class: Hierarchy.load(folder, kinds={{{kind!r}: …}})"
        )
    return known[kind]


def _below(tensors: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _stored(value: NDArray[np.floating]) -> NDArray[np.floating]:
    array = np.ascontiguousarray(value, dtype=np.float32)
    return array.astype(np.float16) if array.size >= _HALF_FROM else array
