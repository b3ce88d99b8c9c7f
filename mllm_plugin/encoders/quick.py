"""An encoder that is loaded when it is needed: the command line and servers start without torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.encoders.base import TextEncoder
from mllm_plugin.encoders.bert import NumpyBert
from mllm_plugin.encoders.folder import LONGEST, ModelFolder
from mllm_plugin.encoders.reading import TokenReader, Tokens, room_for_text
from mllm_plugin.encoders.resolve import resolve_model
from mllm_plugin.errors import EncoderMismatchError
from mllm_plugin.models.files import damage, explained
from mllm_plugin.text.letters import plain_letters

if TYPE_CHECKING:
    from mllm_plugin.encoders.huggingface import HuggingFaceEncoder

Vectors = NDArray[np.float32]
_SHORT = 2000  # characters
_LOADING = threading.Lock()


class QuickEncoder(TokenReader):
    """Stands for a `HuggingFaceEncoder`: says who it is from the files, and loads it for documents only.

    Short queries of a BERT-like model are embedded in numpy, to the same vectors but for rounding.

    Args:
        folder: The model's folder.
        dim, kind, length: Width, architecture and longest input, as the folder's files say.
        documents: Embed short documents as short queries are, until the encoder is loaded for others.
    """

    window_tokens = 16  # as HuggingFaceEncoder has it by default

    def __init__(
        self, folder: ModelFolder, dim: int, kind: str, length: int, documents: bool = False
    ) -> None:
        self.folder, self.dim = folder.path, dim
        self._files, self._length, self._documents = folder, length, documents
        self._prefixes = [folder.prompt("query"), folder.prompt("document", "passage")]
        settings = [folder.pooling, *self._prefixes, length, self.window_tokens]
        self.fingerprint = folder.fingerprint(kind, dim, settings)

    @cached_property
    def loaded(self) -> HuggingFaceEncoder:
        """The encoder itself.

        Raises:
            EncoderMismatchError: The files changed since they were looked at.
        """
        with _LOADING:  # the others wait for the first, and take its
            return vars(self).get("loaded") or self._load()

    def _load(self) -> HuggingFaceEncoder:
        from mllm_plugin.encoders.huggingface import HuggingFaceEncoder

        encoder = HuggingFaceEncoder(self.folder)
        if encoder.fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"{self.folder} was encoder {self.fingerprint!r} and is {encoder.fingerprint!r} now; run the "
                f"command again"
            )
        vars(self)["loaded"] = encoder
        return encoder

    @cached_property
    def _bert(self) -> NumpyBert | None:
        return NumpyBert(self._files) if NumpyBert.reads(self._files) else None

    @cached_property
    def max_tokens(self) -> int:
        """Tokens that the model reads of a text."""
        if self._bert is None:
            return self.loaded.max_tokens
        special = self._bert.tokenizer.num_special_tokens_to_add(is_pair=False)
        return room_for_text(self._length, special, [ids for ids, _ in self._tokens(self._prefixes)])

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        if self._bert is None or not self._is_quick(texts):
            return self.loaded._tokens(texts)
        read = [self._bert.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [(encoding.ids, encoding.offsets) for encoding in read]

    @property
    def _unknown(self) -> int | None:
        return self.loaded._unknown if self._bert is None else self._bert.unknown

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, list[Vectors]]:
        """Embeds texts: pooled [n, d] and windows [w, d] per text, all of unit length."""
        return (self._documents and self._quickly(texts, 1)) or self.loaded.encode_documents(texts)

    def document_batches(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of texts that `encode_documents` takes in one forward pass each."""
        if self._documents and self._bert is not None and self._is_quick(texts):
            return [[row] for row in range(len(texts))]
        return self.loaded.document_batches(texts)

    def window_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character spans of the windows that `encode_documents` gives for each text."""
        return self.loaded.window_spans(texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Embeds queries [n, d], of unit length."""
        return self.encode_query_windows(texts)[0]

    def encode_query_windows(self, texts: Sequence[str]) -> tuple[Vectors, list[Vectors]]:
        """Embeds queries: pooled [n, d], and windows [w, d] per text."""
        return self._quickly(texts, 0) or self.loaded.encode_query_windows(texts)

    def _quickly(self, texts: Sequence[str], prefix: int) -> tuple[Vectors, list[Vectors]] | None:
        """Pooled [n, d], and windows [w, d] per text; None when it takes the loaded model."""
        quick = bool(texts) and self._is_quick(texts)
        read = [self._read(text, self._prefixes[prefix]) for text in texts] if quick else [None]
        if not all(read):
            return None
        pooled, windows = zip(*read, strict=True)  # type: ignore[arg-type]
        return np.stack(pooled), list(windows)

    def _is_quick(self, texts: Sequence[str]) -> bool:
        """Whether texts are few and short, and the model is not loaded anyway."""
        return "loaded" not in vars(self) and sum(map(len, texts)) <= _SHORT

    def _read(self, text: str, prefix: str) -> tuple[Vectors, Vectors] | None:
        """The pooled embedding [d] and the windows [w, d] of a text; None when it takes the loaded model."""
        if self._bert is None:
            return None
        encoding = self._bert.tokenizer.encode(prefix + plain_letters(text)[0])
        if len(encoding.ids) > self._length:
            return None
        states = self._bert.states(np.array(encoding.ids))
        content = states[[end > max(start, len(prefix)) for start, end in encoding.offsets]]
        runs = [
            content[at : at + self.window_tokens].mean(axis=0)
            for at in range(0, len(content), self.window_tokens)
        ]
        return _unit(_pool(states, self._files.pooling)), _unit(np.array(runs).reshape(-1, self.dim))


def quick_encoder(model: str | Path, *, documents: bool = False) -> TextEncoder:
    """The encoder of a name or a path: loaded later where the folder's files say enough, else now.

    Args:
        model: Name or path.
        documents: Whether short documents, too, need not wait for torch.
    """
    path = resolve_model(model).absolute()
    with explained(model, path):
        folder = ModelFolder(path)
        config = folder.json("config.json")
        dim, kind = config.get("hidden_size"), config.get("model_type")
        longest = (folder.json("tokenizer_config.json") or {}).get("model_max_length", LONGEST)
    told = isinstance(dim, int) and isinstance(kind, str) and folder.pooling in _POOLINGS
    if told and not damage(path):
        return QuickEncoder(folder, dim, kind, folder.max_length or min(longest, LONGEST), documents)
    from mllm_plugin.encoders.huggingface import HuggingFaceEncoder

    return HuggingFaceEncoder(path)


_POOLINGS = {
    "mean": lambda states: states.mean(axis=0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(axis=0),
}


def _pool(states: Vectors, pooling: str) -> Vectors:
    return _POOLINGS[pooling](states)


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norms, np.float32(1e-12))).astype(np.float32)
