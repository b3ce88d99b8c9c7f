"""A hierarchy's weights as bytes: safetensors for the numbers, JSON for the rest, in a folder or a memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.folder import (
    CONFIG,
    TENSORS,
    check_numbers,
    packed,
    parsed,
    read_pair,
    tensors_below,
    unpacked,
    write_pair,
)
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker
from mllm_plugin.hierarchy.modules import AttentionLevelEncoder, MappedRanker

NAME = "hierarchy"
TENSORS_NAME, CONFIG_NAME = f"{NAME}{TENSORS}", f"{NAME}{CONFIG}"
_LEAF = "leaf."
_HALF_FROM = 1024  # tensors of at least so many numbers are kept as fp16
_KINDS: Mapping[str, Any] = {"attention": AttentionLevelEncoder, "mapped": MappedRanker}
_SHIPPED = "trained"  # folder of those that come with the package
Level = Annotated[int, Field(ge=1, le=64)]


class WeightsConfig(BaseModel):
    """What goes with the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: int = Field(default=1, ge=1, le=1)
    """Of this layout."""
    encoder: str
    """Fingerprint of the Encoder 1 that the modules were trained for."""
    level_encoders: dict[Level, str] = {}
    """Kind of module by level."""
    rankers: dict[Level, str] = {}
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
        """Writes both files, or none of them."""
        text = json.dumps(self.config.model_dump(mode="json"), indent=2)
        write_pair(folder, NAME, tensors=self.tensors, config=text)


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
    tensors, config = read_pair(folder, NAME, what="trained hierarchy", hint="`mllm train` makes one")
    return parse_weights(config, tensors, str(folder))


def parse_weights(config: str | bytes, tensors: bytes, where: str) -> Weights:
    """Checks JSON and safetensors: every tensor belongs to a module and holds numbers.

    Raises:
        InvalidInputError: They cannot be read as weights.
    """
    where = f"the hierarchy's weights in {where}"
    weights = Weights(parsed(WeightsConfig, config, where), tensors)
    modules = tuple(prefix for prefix, _, _ in _modules(weights.config))
    for name, value in unpacked(tensors, where).items():
        if not name.startswith((_LEAF, *modules)):
            raise InvalidInputError(
                f"{where}: tensor {name!r} belongs to no module; expected names that begin with one of "
                f"{', '.join((_LEAF, *modules))}"
            )
        check_numbers(value, f"{where}: tensor {name!r}", unbounded=True)
    return weights


def _modules(config: WeightsConfig) -> list[tuple[str, int, str]]:
    """Prefix of the tensors, level and kind of each module: level encoders, then rankers."""
    groups = (("encoder", config.level_encoders), ("ranker", config.rankers))
    return [(f"{name}.{level}.", level, kind) for name, kinds in groups for level, kind in kinds.items()]


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
        InvalidInputError: A module has none, or a tensor is not finite.
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
    return Weights(config, packed({name: _stored(value, name) for name, value in named.items()}))


def modules_of(
    weights: Weights, kinds: Mapping[str, Any]
) -> tuple[dict[int, Any], dict[int, Any], dict[str, NDArray[np.float32]] | None]:
    """Level encoders, rankers, and the leaf ranker's tensors (None when it has none).

    Raises:
        InvalidInputError: A kind is unknown, or a module cannot be made of its tensors.
    """
    tensors = {name: value.astype(np.float32) for name, value in unpacked(weights.tensors, NAME).items()}
    known = {**_KINDS, **kinds}
    built = {
        prefix: _built(_kind(known, kind), tensors_below(tensors, prefix), f"{kind} of tensors {prefix}*")
        for prefix, _, kind in _modules(weights.config)
    }
    encoders = {level: built[f"encoder.{level}."] for level in weights.config.level_encoders}
    rankers = {level: built[f"ranker.{level}."] for level in weights.config.rankers}
    return encoders, rankers, tensors_below(tensors, _LEAF) or None


def _built(kind: Any, tensors: Mapping[str, NDArray[np.float32]], what: str) -> Any:
    try:
        return kind(tensors)
    except Exception as error:  # a class of the caller's own may raise anything
        raise InvalidInputError(f"the hierarchy's weights hold no {what}: {error}") from error


def _kind(known: Mapping[str, Any], kind: str) -> Any:
    if kind not in known:
        raise InvalidInputError(
            f"the weights hold a module of kind {kind!r}, which is none of {', '.join(sorted(known))}; "
            f"pass its class: Hierarchy.load(folder, kinds={{{kind!r}: …}})"
        )
    return known[kind]


def _stored(value: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    array = np.array(value, dtype=np.float32)
    check_numbers(array, f"tensor {name!r}", unbounded=True)
    small = array.size >= _HALF_FROM and np.abs(array).max() <= np.finfo(np.float16).max
    return array.astype(np.float16) if small else array


@lru_cache(maxsize=8)
def shipped_weights(encoder: str) -> Weights | None:
    """Weights for an encoder by its fingerprint; None when the package has none."""
    folder = files("mllm_plugin") / _SHIPPED
    for source in folder.iterdir() if folder.is_dir() else ():
        if (source / CONFIG_NAME).is_file():
            text = (source / CONFIG_NAME).read_bytes()
            if f'"{encoder}"'.encode() in text:
                return parse_weights(text, (source / TENSORS_NAME).read_bytes(), source.name)
    return None
