"""A reader: what makes a language model write its memory as vectors of its own input space, and read them.

It is made for one language model and works with any Encoder 1, since it reads texts and not the embeddings
that found them. JSON + safetensors; low-rank changes are kept as int8 rows with a scale each.

Shapes: s windows of a chunk, h width of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.folder import (
    CONFIG,
    check_shapes,
    check_tensors,
    has_pair,
    packed,
    parsed,
    read_pair,
    tensors_below,
    unpacked,
    write_pair,
)
from mllm_plugin.hierarchy.weights import document_mark
from mllm_plugin.llm import lora
from mllm_plugin.llm.declining import Calibration
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.packing import (
    READER,
    SPACE,
    WRITER,
    changed_layers,
    packed_rows,
    shapes_of,
    unpacked_rows,
)
from mllm_plugin.llm.plain_text import plain_tokenizer
from mllm_plugin.llm.reading import RATIOS, ReadingVectors
from mllm_plugin.shapes import Float, Float32, Int64

NAME = "reader"
CONFIG_NAME = f"{NAME}{CONFIG}"
_EARLIER_NAME = "adapter.json"
_LONGEST = 512  # tokens that the writer sees at once
_BATCH_TOKENS = 4096


class ReaderConfig(BaseModel):
    """What a reader is made for and of."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: int = Field(default=1, ge=1, le=1)
    """Of this layout."""
    kind: Literal["reader"] = "reader"
    """Always "reader"."""
    llm: str
    """Fingerprint of the language model."""
    llm_name: str
    """Its name, for messages."""
    hidden: int = Field(ge=1)
    """Width of the model's input."""
    ratios: tuple[Annotated[int, Field(ge=1)], ...] = RATIOS
    """Window sizes that it was trained with, in tokens."""
    ratio: int = 4
    """The one in use: tokens of text per memory token."""
    scale: float = Field(default=2.0, gt=0)
    """Of the low-rank changes."""
    refusal: str = "unknown"
    """What it says when the memory does not hold the answer."""
    declining: Calibration | None = None
    """What its way to decline tells of what it reads as text; made by `benchmarks/declining.py`."""
    reading: dict[str, Any] = {}
    """Settings of a `MemoryLLM` that suit it, by name; whoever uses it may set others."""
    auto: dict[str, Any] = {"mode": "both"}
    """Settings that mode "auto" stands for; what was measured to answer best."""
    documents: tuple[str, ...] = ()
    """Marks of the user's documents that the training saw, see `document_mark`."""
    about: dict[str, Any] = {}
    """Data, command, seeds, figures; for people."""

    @model_validator(mode="after")
    def _check_fields(self) -> ReaderConfig:
        if self.ratio not in self.ratios:
            raise ValueError(f"ratio must be one of {self.ratios}, got {self.ratio}")
        if "mode" not in self.auto:
            raise ValueError("auto must name a mode")
        return self

    def fits(self, llm: LoadedLLM) -> bool:
        """Whether it is made for a model; any Encoder 1 will do."""
        return self.llm == llm.fingerprint


class Written(NamedTuple):
    """A chunk as its reader reads it.

    Attributes:
        vectors: Of its windows [s, h].
        spans: Characters of the text that each covers [s, 2].
    """

    vectors: Float32[np.ndarray, "s h"]
    spans: Int64[np.ndarray, "s 2"]


class MemoryReader:
    """Writes texts as reading vectors and reads these, with one language model.

    Args:
        config: What it is.
        tensors: The two sets of low-rank changes, the map and the kinds, and the idf of the model's tokens.

    Raises:
        InvalidInputError: A tensor is missing or unknown, has another shape, or is not finite.
    """

    def __init__(self, config: ReaderConfig, tensors: Mapping[str, Tensor]) -> None:
        numbers = {name: value.detach().float().cpu().numpy() for name, value in tensors.items()}
        check_tensors(
            numbers, shapes_of(config.hidden, len(config.ratios), changed_layers(tensors)), "a reader"
        )
        self.config = config
        self._tensors = dict(tensors)
        self._space: ReadingVectors | None = None
        self._added: MutableMapping[Any, dict[str, dict[str, Tensor]]] = WeakKeyDictionary()

    @classmethod
    def create(
        cls, llm: LoadedLLM, *, idf: Tensor | None = None, rank: int = 8, seed: int = 0, **settings: Any
    ) -> MemoryReader:
        """An untrained reader: it writes sums of words, and the model is what it was.

        Args:
            llm: The model.
            idf: Of its tokens [v]; all alike when left out.
            rank: Of the low-rank changes.
            seed: Of their first values.
            settings: Further fields of `ReaderConfig`.
        """
        config = ReaderConfig(llm=llm.fingerprint, llm_name=llm.name, hidden=llm.hidden, **settings)
        known = torch.ones(len(llm.embeddings.weight)) if idf is None else idf
        space = ReadingVectors(llm.embeddings.weight, known, config.ratios)
        tensors = {f"{SPACE}{name}": value for name, value in space.state_dict().items()}
        changes = lora.untrained(llm.model, rank, seed)
        for which in (WRITER, READER):
            tensors |= {f"{which}{name}": value for name, value in changes.items()}
        return cls(config, {**tensors, f"{SPACE}idf": known})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers, by names that begin with what they are of: "writer.", "reader.", "space."."""
        return dict(self._tensors)

    @property
    def fingerprint(self) -> str:
        """Changes whenever what it writes would."""
        digest = hashlib.sha256(f"{self.config.llm}:{self.config.ratio}".encode())
        for name in sorted(self._tensors):
            if not name.startswith(READER):
                digest.update(self._tensors[name].float().cpu().numpy().tobytes())
        return f"reader:{digest.hexdigest()[:32]}"

    def check(self, llm: LoadedLLM) -> None:
        """Checks that the tensors fit a model, before it runs with them.

        Raises:
            InvalidInputError: A tensor is missing, unknown, or has another shape.
        """
        layers = {name: tuple(one.weight.shape) for name, one in lora.linear_layers(llm.model).items()}
        shapes = shapes_of(llm.hidden, len(self.config.ratios), layers)
        shapes[f"{SPACE}idf"] = (len(llm.embeddings.weight),)
        found = {name: tuple(value.shape) for name, value in self._tensors.items()}
        check_shapes(found, shapes, f"the reader for {llm.name}")

    def space(self, llm: LoadedLLM) -> ReadingVectors:
        """What turns texts of a model's tokens into vectors; made at the first call.

        Raises:
            InvalidInputError: The tensors do not fit the model.
        """
        if self._space is None:
            idf = self._tensors[f"{SPACE}idf"]
            if len(idf) != len(llm.embeddings.weight):
                raise InvalidInputError(
                    f"the reader knows {len(idf)} tokens, the model has {len(llm.embeddings.weight)}; was it "
                    f"trained for another model?"
                )
            space = ReadingVectors(llm.embeddings.weight, idf, self.config.ratios)
            own = tensors_below(self._tensors, SPACE)
            space.load_state_dict({name: own[name] for name in space.state_dict()})
            self._space = space.to(llm.device).eval().requires_grad_(False)
        return self._space

    # -- writing

    def write(self, llm: LoadedLLM, texts: Sequence[str]) -> list[Written]:
        """Reading vectors of texts, in windows of `config.ratio` tokens; long texts are written in parts."""
        space = self.space(llm)
        parts = [(row, *part) for row, text in enumerate(texts) for part in _parts(llm.tokenizer, text)]
        order = sorted(range(len(parts)), key=lambda place: len(parts[place][1]))
        found: dict[int, Written] = {}
        with llm.lock, torch.inference_mode(), self._changed(llm.model, WRITER):
            for batch in _batches(order, [len(part[1]) for part in parts]):
                written = self._write(llm, space, [parts[place][1] for place in batch])
                for place, vectors in zip(batch, written, strict=True):
                    found[place] = Written(vectors, _windows(parts[place][2], self.config.ratio))
        return [
            _joined([found[n] for n, part in enumerate(parts) if part[0] == row], llm.hidden)
            for row in range(len(texts))
        ]

    def _write(
        self, llm: LoadedLLM, space: ReadingVectors, rows: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float32]]:
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        live = torch.zeros(ids.shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, : len(row)], live[place, : len(row)] = torch.tensor(row), True
        ids, live = ids.to(llm.device), live.to(llm.device)
        mask = torch.zeros(len(rows), 1, longest, longest, dtype=llm.dtype, device=llm.device)
        mask = mask.masked_fill(~live[:, None, None, :], torch.finfo(llm.dtype).min)  # both ways
        states = llm.model.get_decoder()(
            inputs_embeds=llm.embeddings(ids), attention_mask=mask, use_cache=False
        ).last_hidden_state
        ratio = self.config.ratio
        size = torch.full((len(rows),), ratio, device=llm.device)
        vectors = space.windows(ids, live, states, size, -(-longest // ratio))
        vectors = vectors.half().float()  # as they are kept, so that it does not matter whether they were
        return [
            windows[: -(-len(row) // ratio)].cpu().numpy() for windows, row in zip(vectors, rows, strict=True)
        ]

    # -- reading

    def soft_tokens(self, vectors: Any, levels: Any) -> Float[Tensor, "n h"]:
        """Memory tokens [n, h] of vectors [n, h] of levels [n]: 0 windows, 1 chunks, 2 and more nodes.

        Raises:
            InvalidInputError: Nothing was written yet, so that the model is not known.
        """
        if self._space is None:
            raise InvalidInputError("the reader has no model yet; call write or space first")
        space = self._space
        given = torch.as_tensor(vectors, dtype=torch.float32, device=space.centre.device)
        level = torch.as_tensor(levels, dtype=torch.long, device=space.centre.device)
        window = self.config.ratios.index(self.config.ratio)
        kinds = torch.where(level == 0, window, space.chunk_kind + (level > 1).long())
        return space.tokens(given, kinds)

    def applied(self, model: Any) -> AbstractContextManager[None]:
        """Inside, the model reads and answers as trained, at no cost per token; then it is as before."""
        return self._changed(model, READER)

    @contextmanager
    def _changed(self, model: Any, which: str) -> Iterator[None]:
        weights = self._added.setdefault(model, {})
        if which not in weights:
            weights[which] = lora.added(model, tensors_below(self._tensors, which), self.config.scale)
        with lora.in_place(model, weights[which]):
            yield

    # -- files

    def has_seen(self, document_id: str, namespace: tuple[str, ...] = ()) -> bool:
        """Whether the training saw a document of the user's."""
        return document_mark(namespace, document_id) in self.config.documents

    def save(self, folder: str | Path, **changes: Any) -> None:
        """Writes both files, or none of them.

        Args:
            folder: Made when it is not there.
            changes: Fields of the configuration to replace, such as `about` or `reading`.

        Raises:
            StoreError: The folder cannot be written; what was in it before is kept.
        """
        config = ReaderConfig.model_validate({**self.config.model_dump(), **changes})
        data = packed({name: value.numpy() for name, value in packed_rows(self._tensors).items()})
        write_pair(folder, NAME, tensors=data, config=config.model_dump_json(indent=2, exclude_none=True))

    @classmethod
    def load(cls, folder: str | Path) -> MemoryReader:
        """Reads what `save` wrote.

        Raises:
            NotFoundError: A file is missing.
            InvalidInputError: They cannot be read as a reader, or are an adapter of an earlier version.
        """
        source = Path(folder)
        if (source / _EARLIER_NAME).is_file() and not has_pair(source, NAME):
            raise InvalidInputError(
                f"{source} holds an adapter of an earlier version, which made a model read another encoder's "
                f"embeddings; expected a reader. `mllm train-llm MEMORY --into FOLDER` makes one, and "
                f"adapter='default' takes the one that comes with the package"
            )
        tensors, text = read_pair(source, NAME, what="reader", hint="`mllm train-llm` makes one")
        where = f"the reader in {source}"
        config = parsed(ReaderConfig, text, where)
        try:
            return cls(config, unpacked_rows(unpacked(tensors, where)))
        except InvalidInputError as error:
            raise InvalidInputError(f"{where} is damaged: {error}") from error


_SHIPPED: MutableMapping[LoadedLLM, MemoryReader | None] = WeakKeyDictionary()


def shipped_reader(llm: LoadedLLM) -> MemoryReader | None:
    """The reader that comes with the package for a model; None without one."""
    # all who work with one loaded model share its reader, and with it the weights that the reader changes
    if llm not in _SHIPPED:
        _SHIPPED[llm] = _shipped_reader(llm)
    return _SHIPPED[llm]


def _shipped_reader(llm: LoadedLLM) -> MemoryReader | None:
    folder = files("mllm_plugin") / "trained"
    for source in folder.iterdir() if folder.is_dir() else ():
        if (source / CONFIG_NAME).is_file():
            config = parsed(ReaderConfig, (source / CONFIG_NAME).read_bytes(), f"the reader {source.name}")
            if config.fits(llm):
                with as_file(source) as path:
                    return MemoryReader.load(path)
    return None


def _parts(tokenizer: Any, text: str) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Ids and character spans of a text, in parts that the writer takes."""
    tokens = plain_tokenizer(tokenizer).encode(text)
    ids, spans = (
        [token for token, _ in tokens],
        np.array([span for _, span in tokens], np.int64).reshape(-1, 2),
    )
    for start in range(0, len(ids), _LONGEST):
        yield ids[start : start + _LONGEST], spans[start : start + _LONGEST]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places in batches of a bounded number of padded tokens."""
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * lengths[place] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _windows(spans: Int64[np.ndarray, "t 2"], ratio: int) -> Int64[np.ndarray, "s 2"]:
    starts = spans[::ratio, 0]
    lasts = np.minimum(np.arange(len(starts)) * ratio + ratio, len(spans)) - 1
    return np.stack([starts, spans[lasts, 1]], axis=1)


def _joined(parts: Sequence[Written], hidden: int) -> Written:
    if not parts:
        return Written(np.zeros((0, hidden), np.float32), np.zeros((0, 2), np.int64))
    return Written(
        np.concatenate([part.vectors for part in parts]), np.concatenate([part.spans for part in parts])
    )
