"""Encoder 1 from any Hugging Face encoder: pooled embedding and level-0 windows in one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.extras import needs

with needs("local", "a Hugging Face encoder", "open the memory with VectorsOnly(dim) or None as encoder"):
    import torch
    from torch import Tensor

from mllm_plugin.encoders.folder import LONGEST, ModelFolder
from mllm_plugin.encoders.reading import TokenReader, Tokens, room_for_text
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER, resolve_model
from mllm_plugin.encoders.short import MOST_TOKENS, short_bert
from mllm_plugin.encoders.threads import MOST_PARTS, on_one_thread, side_by_side
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError
from mllm_plugin.models.files import choose_device, explained, load_model, load_tokenizer, readable_texts
from mllm_plugin.shapes import Bool, Float, Float32, Int
from mllm_plugin.text.letters import plain_letters

_SAME = 0.9999  # cosine; of unrelated texts .99 with models that were never trained to tell texts apart
_COLUMNS = ("input_ids", "attention_mask", "offset_mapping")
_SHORT = 4e9  # weights times tokens: a tenth of a second of one thread, or two
_PART = 2 * _SHORT  # the least that a thread is given of more
_Read = tuple[NDArray[np.float32], list[NDArray[np.float32]]]


class HuggingFaceEncoder(TokenReader):
    """A transformers encoder with its own tokenizer and pooling.

    Args:
        model: Name or path; see `resolve_model` for where it is looked up.
        device: "cpu", "cuda", …; CUDA when there is one.
        pooling: "mean", "cls" or "max"; read from the model's own configuration when left out.
        query_prefix, document_prefix: Put before every text, as E5- and BGE-like models expect; read from the
            model's own prompts when left out.
        window_tokens: Tokens per level-0 window.
        batch_tokens: Padded tokens per forward pass.

    Raises:
        ModelNotFoundError: The model, or a fast tokenizer for it, is not to be had.
        InvalidInputError: Its files are damaged or incomplete, there is no such device, the pooling is
            unknown, or a prefix leaves no room for text.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_ENCODER,
        *,
        device: str | None = None,
        pooling: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        window_tokens: int = 16,
        batch_tokens: int = 4096,
    ) -> None:
        self._options = {
            "device": device,
            "pooling": pooling,
            "query_prefix": query_prefix,
            "document_prefix": document_prefix,
            "window_tokens": window_tokens,
            "batch_tokens": batch_tokens,
        }
        self.folder = resolve_model(model).absolute()
        self._name = str(model)
        with explained(model, self.folder):
            settings = ModelFolder(self.folder)
        self.pooling = pooling or settings.pooling
        if self.pooling not in ("mean", "cls", "max"):
            raise InvalidInputError(f"pooling {self.pooling!r} is unknown; expected 'mean', 'cls' or 'max'")
        self.query_prefix = settings.prompt("query") if query_prefix is None else query_prefix
        self.document_prefix = (
            settings.prompt("document", "passage") if document_prefix is None else document_prefix
        )
        self.window_tokens, self.batch_tokens = window_tokens, batch_tokens
        self.device = choose_device(device)
        self._tokenizer = load_tokenizer(model, self.folder, "which character offsets need")
        self._model = load_model(
            model, self.folder, "AutoModel", dtype=torch.float32, device=self.device, unused=("pooler",)
        )
        self._weights = sum(weight.numel() for weight in self._model.parameters())
        self._weights -= self._model.get_input_embeddings().weight.numel()  # of which a token reads one row
        self._lock = threading.Lock()
        self.dim: int = self._model.config.hidden_size
        self._length = settings.max_length or min(self._tokenizer.model_max_length, LONGEST)
        prefixes = [ids for ids, _ in self._tokens([self.document_prefix, self.query_prefix])]
        special = self._tokenizer.num_special_tokens_to_add()
        self.max_tokens: int = room_for_text(self._length, special, prefixes)
        self._check(model)
        self.fingerprint = settings.fingerprint(
            self._model.config.model_type,
            self.dim,
            [self.pooling, self.query_prefix, self.document_prefix, self._length, window_tokens],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled is what it was loaded with, not the weights; other weights there are an error."""
        return _loaded_again, (type(self), self.folder, self._name, self._options, self.fingerprint)

    def __deepcopy__(self, memo: dict[int, Any]) -> HuggingFaceEncoder:
        """Itself, since nothing changes it."""
        return self

    @cached_property
    def _short(self) -> Any:
        return short_bert(self._model)

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        if not texts:
            return []
        with self._lock:
            encoded = self._tokenizer(
                list(texts),
                add_special_tokens=False,
                return_offsets_mapping=True,
                truncation=False,
                verbose=False,
            )
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    @property
    def _unknown(self) -> int | None:
        return self._tokenizer.unk_token_id

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embeds texts: pooled [n, d] and windows [w, d] per text, all of unit length."""
        return self._encode(texts, self.document_prefix, windows=True)

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Embeds queries [n, d], of unit length."""
        return self._encode(texts, self.query_prefix, windows=False)[0]

    def encode_query_windows(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embeds queries as `encode_queries` does: pooled [n, d], and windows [w, d] per text."""
        return self._encode(texts, self.query_prefix, windows=True)

    def window_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character spans of the windows that `encode_documents` gives for each text."""
        if not texts:
            return []
        plain = [plain_letters(text) for text in texts]
        encoded = self._read_tokens(
            [self.document_prefix + text for text, _ in plain],
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        first, size = len(self.document_prefix), self.window_tokens
        spans = []
        for text, (_, places), offsets in zip(texts, plain, encoded["offset_mapping"], strict=True):
            tokens = np.array([span for span in offsets if span[1] > max(span[0], first)], dtype=np.int64)
            content = places.spans((tokens.reshape(-1, 2) - first).clip(min=0)).tolist()
            runs = (content[at : at + size] for at in range(0, len(content), size))
            spans.append([_trimmed(text, run[0][0], run[-1][1]) for run in runs])
        return spans

    def _encode(self, texts: Sequence[str], prefix: str, *, windows: bool) -> _Read:
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        found: list[NDArray[np.float32]] = [np.zeros((0, self.dim), dtype=np.float32)] * len(texts)
        plain = [prefix + plain_letters(text)[0] for text in texts]
        for rows in self._rows(plain):
            read = partial(self._read, prefix=len(prefix), windows=windows)
            start = 0
            for vectors, windows_of_rows in self._passes(read, self._batch([plain[row] for row in rows])):
                own = rows[start : start + len(vectors)]
                pooled[own] = vectors
                for row, window in zip(own, windows_of_rows, strict=windows):
                    found[row] = window
                start += len(vectors)
        return pooled, found

    def _passes(self, read: Callable[[Any], _Read], batch: Any) -> list[_Read]:
        """What is read of a batch: at once, or in parts side by side where that is quicker."""
        if self.device.type != "cpu":
            return [read(batch)]
        work = batch["input_ids"].numel() * self._weights
        if work <= _SHORT:
            return [on_one_thread(read, batch)]
        most = max(1, min(MOST_PARTS, torch.get_num_threads(), int(work // _PART)))
        return side_by_side(read, _divided(batch, most))

    def _batch(self, texts: Sequence[str]) -> Any:
        """What `_read` takes of texts that are read together."""
        if len(texts) == 1 and self._short is not None:
            with self._lock:
                found = self._tokenizer.backend_tokenizer.encode(texts[0])
            if len(found.ids) <= MOST_TOKENS:
                columns = (found.ids, found.attention_mask, found.offsets)
                return dict(zip(_COLUMNS, (torch.tensor([column]) for column in columns), strict=True))
        return self._read_tokens(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")

    @torch.inference_mode()
    def _read(self, batch: Any, *, prefix: int, windows: bool) -> _Read:
        """One forward pass: pooled [n, d], and windows [w, d] per text where they are asked for."""
        inputs = {name: batch[name].to(self.device) for name in batch if name != "special_tokens_mask"}
        offsets = inputs.pop("offset_mapping")
        states = self._states(inputs)
        pooled = _pool(states, inputs["attention_mask"], self.pooling).float().cpu().numpy()
        if not windows:
            return pooled, []
        content = offsets[..., 1] > offsets[..., 0].clip(min=prefix)
        return pooled, _windows(states, content, self.window_tokens)

    def _states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Token states [b, t, d]."""
        tokens = inputs["input_ids"]
        if len(tokens) == 1 and tokens.shape[1] <= MOST_TOKENS and self._short is not None:
            return self._short.states(tokens[0])[None]
        return self._model(**inputs).last_hidden_state

    def document_batches(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of texts that `encode_documents` takes in one forward pass each, the longest first."""
        return self._rows([self.document_prefix + plain_letters(text)[0] for text in texts])

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Length-sorted batches of at most `batch_tokens` padded tokens."""
        if len(texts) < 2:
            return [[0]][: len(texts)]
        lengths = [len(ids) for ids in self._read_tokens(texts, return_attention_mask=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        batches = []
        while order:
            size = max(1, self.batch_tokens // max(1, lengths[order[0]]))
            batches.append(order[:size])
            order = order[size:]
        return batches

    def _read_tokens(self, texts: Sequence[str], **options: Any) -> Any:
        """A `BatchEncoding` of texts with special tokens, no longer than the model reads."""
        if not texts:
            return {"input_ids": []}
        with self._lock:
            return self._tokenizer(list(texts), truncation=True, max_length=self._length, **options)

    def _check(self, model: str | Path) -> None:
        """Refuses a model that makes the same of everything, or no numbers."""
        words = self._model.get_input_embeddings().weight.shape[0]
        texts = readable_texts(model, self.folder, self._tokenizer, words)
        with explained(model, self.folder):
            first, second = self.encode_documents(texts)[0]
        if not (np.isclose([first @ first, second @ second], 1).all() and first @ second < _SAME):
            raise InvalidInputError(
                f"{model} in {self.folder} makes of {texts[0]!r} and {texts[1]!r} vectors of length "
                f"{first @ first:.4f} and {second @ second:.4f} with cosine {first @ second:.4f}; expected "
                f"length 1 and different directions. Its weights are damaged; fetch it again"
            )


def _loaded_again(
    kind: type[HuggingFaceEncoder], folder: Path, name: str, options: dict[str, Any], fingerprint: str
) -> HuggingFaceEncoder:
    model = folder if folder.is_dir() else name
    encoder = kind(model, **options)
    if encoder.fingerprint != fingerprint:
        raise EncoderMismatchError(
            f"the encoder that was pickled is {fingerprint!r}, {model} is {encoder.fingerprint!r} here; use "
            f"the same files in both places"
        )
    return encoder


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without surrounding white space; as it is where there is nothing else in it."""
    inside = text[start:end]
    if not (bare := inside.strip()):
        return start, end
    start += inside.index(bare[0])
    return start, start + len(bare)


def _divided(batch: Any, most: int) -> list[dict[str, Tensor]]:
    """A batch in at most so many parts of as many texts, one after another; each is as wide as it needs."""
    count = len(batch["input_ids"])
    bounds = np.linspace(0, count, min(most, count) + 1, dtype=int).tolist()
    parts = []
    for first, last in pairwise(bounds):
        columns = batch["attention_mask"][first:last].any(dim=0).nonzero()
        used = int(columns[-1]) + 1 if len(columns) else 1  # texts may have no token
        parts.append({name: batch[name][first:last, :used] for name in batch})
    return parts


def _pool(
    states: Float[Tensor, "b t d"], attention: Int[Tensor, "b t"], pooling: str
) -> Float[Tensor, "b d"]:
    """Token states [b, t, d] to unit embeddings [b, d]."""
    mask = attention.unsqueeze(-1).to(states.dtype)
    if pooling == "cls":
        pooled = states[:, 0]
    elif pooling == "max":
        pooled = states.masked_fill(mask == 0, float("-inf")).amax(dim=1)
    else:
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(pooled, dim=-1)


def _windows(
    states: Float[Tensor, "b t d"], content: Bool[Tensor, "b t"], size: int
) -> list[Float32[np.ndarray, "_ d"]]:
    """Unit means [w, d] of each run of `size` content tokens, per text."""
    states, content = states.float().cpu(), content.cpu()
    windows = []
    for row, keep in zip(states, content, strict=True):
        runs = row[keep].split(size) if bool(keep.any()) else ()
        means = [torch.nn.functional.normalize(run.mean(dim=0), dim=-1) for run in runs]
        windows.append(torch.stack(means).numpy() if means else row.new_zeros((0, row.shape[-1])).numpy())
    return windows
