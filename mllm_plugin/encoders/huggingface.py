"""Encoder 1 from any Hugging Face encoder: pooled embedding and level-0 windows in one forward pass."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.encoders.resolve import DEFAULT_ENCODER, resolve_model
from mllm_plugin.errors import InvalidInputError, ModelNotFoundError
from mllm_plugin.pretrained import file_sha256, no_progress_bars

_SUPPORTED_MODULES = {"Transformer", "Pooling", "Normalize"}


class HuggingFaceEncoder:
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
        from transformers import AutoModel, AutoTokenizer

        self.folder = resolve_model(model)
        settings = _ModelSettings(self.folder)
        self.pooling = pooling or settings.pooling
        if self.pooling not in ("mean", "cls", "max"):
            raise InvalidInputError(f"pooling {self.pooling!r} is unknown; expected 'mean', 'cls' or 'max'")
        self.query_prefix = settings.prompt("query") if query_prefix is None else query_prefix
        self.document_prefix = (
            settings.prompt("document", "passage") if document_prefix is None else document_prefix
        )
        self.window_tokens, self.batch_tokens = window_tokens, batch_tokens
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer = AutoTokenizer.from_pretrained(self.folder, use_fast=True, trust_remote_code=False)
        if not self._tokenizer.is_fast:
            raise ModelNotFoundError(
                f"{model}: no fast tokenizer (tokenizer.json); character offsets need one"
            )
        with no_progress_bars():
            self._model = AutoModel.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        self._model.eval().to(self.device)
        self._lock = threading.Lock()
        self.dim: int = self._model.config.hidden_size
        self._length = settings.max_length or min(self._tokenizer.model_max_length, 512)
        prefix = len(self._tokenizer(self.document_prefix, add_special_tokens=False)["input_ids"])
        self.max_tokens = self._length - self._tokenizer.num_special_tokens_to_add() - prefix
        self.fingerprint = self._fingerprint()

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character spans [t, 2] of the text's tokens."""
        with self._lock:
            encoding = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
        return np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Embeds texts: pooled [n, d] and windows [w, d] per text, all of unit length."""
        return self._encode(texts, self.document_prefix, windows=True)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
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
        with self._lock:
            encoded = self._tokenizer(
                [self.document_prefix + text for text in texts],
                truncation=True,
                max_length=self._length,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
        first, size = len(self.document_prefix), self.window_tokens
        spans = []
        for offsets in encoded["offset_mapping"]:
            content = [(start - first, end - first) for start, end in offsets if end > start >= first]
            runs = (content[at : at + size] for at in range(0, len(content), size))
            spans.append([(run[0][0], run[-1][1]) for run in runs])
        return spans

    @torch.inference_mode()
    def _encode(
        self, texts: Sequence[str], prefix: str, *, windows: bool
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        found: list[NDArray[np.float32]] = [np.zeros((0, self.dim), dtype=np.float32)] * len(texts)
        for rows, batch in self._batches([prefix + text for text in texts]):
            inputs = {name: batch[name].to(self.device) for name in batch if name != "special_tokens_mask"}
            offsets = inputs.pop("offset_mapping")
            states = self._model(**inputs).last_hidden_state
            pooled[rows] = _pool(states, inputs["attention_mask"], self.pooling).float().cpu().numpy()
            if windows:
                content = (offsets[..., 1] > offsets[..., 0]) & (offsets[..., 0] >= len(prefix))
                for row, window in zip(rows, _windows(states, content, self.window_tokens), strict=True):
                    found[row] = window
        return pooled, found

    def _batches(self, texts: list[str]):  # noqa: ANN202 - iterator of (rows, BatchEncoding)
        """Length-sorted batches of at most `batch_tokens` padded tokens."""
        if not texts:
            return
        with self._lock:
            lengths = [
                len(ids)
                for ids in self._tokenizer(
                    texts, truncation=True, max_length=self._length, return_attention_mask=False
                )["input_ids"]
            ]
        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        while order:
            size = max(1, self.batch_tokens // max(1, lengths[order[0]]))
            rows, order = order[:size], order[size:]
            with self._lock:
                batch = self._tokenizer(
                    [texts[row] for row in rows],
                    truncation=True,
                    max_length=self._length,
                    padding=True,
                    return_offsets_mapping=True,
                    return_tensors="pt",
                )
            yield rows, batch

    def _fingerprint(self) -> str:
        """Changes whenever an embedding would: weights, tokenizer, pooling, prefixes, lengths."""
        digest = hashlib.sha256()
        for path in [*sorted(self.folder.glob("*.safetensors")), self.folder / "tokenizer.json"]:
            if path.is_file():
                digest.update(file_sha256(path).encode())
        settings = [self.pooling, self.query_prefix, self.document_prefix, self._length, self.window_tokens]
        digest.update(json.dumps(settings).encode())
        return f"hf:{self._model.config.model_type}:{self.dim}:{digest.hexdigest()[:32]}"


class _ModelSettings:
    """What a sentence-transformers folder says of pooling, length and prompts; defaults for a plain model."""

    def __init__(self, folder: Path) -> None:
        modules = _read_json(folder / "modules.json") or []
        kinds = {module["type"].rsplit(".", 1)[-1] for module in modules}
        if unsupported := kinds - _SUPPORTED_MODULES:
            raise InvalidInputError(
                f"{folder}: module {', '.join(sorted(unsupported))} is not supported; wrap the model as a "
                f"LangChain Embeddings (HuggingFaceEmbeddings) and pass that as the encoder"
            )
        pooling_folder = next((m["path"] for m in modules if m["type"].endswith("Pooling")), "1_Pooling")
        self.pooling = self._pooling(_read_json(folder / pooling_folder / "config.json") or {})
        self.max_length = (_read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
        self._prompts = (_read_json(folder / "config_sentence_transformers.json") or {}).get("prompts", {})

    @staticmethod
    def _pooling(config: dict) -> str:
        if "pooling_mode" in config:
            return str(config["pooling_mode"])
        modes = [name for name, chosen in config.items() if name.startswith("pooling_mode_") and chosen]
        if not modes:
            return "mean"
        if len(modes) > 1:
            raise InvalidInputError(f"several poolings at once are not supported: {modes}; pass pooling=")
        return modes[0].removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")

    def prompt(self, *names: str) -> str:
        return next((self._prompts[name] for name in names if name in self._prompts), "")


def _read_json(path: Path):  # noqa: ANN202 - any JSON value
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _pool(states: Tensor, attention: Tensor, pooling: str) -> Tensor:
    """Token states [b, t, d] to unit embeddings [b, d]."""
    mask = attention.unsqueeze(-1).to(states.dtype)
    if pooling == "cls":
        pooled = states[:, 0]
    elif pooling == "max":
        pooled = states.masked_fill(mask == 0, float("-inf")).amax(dim=1)
    else:
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(pooled, dim=-1)


def _windows(states: Tensor, content: Tensor, size: int) -> list[NDArray[np.float32]]:
    """Unit means [w, d] of each run of `size` content tokens, per text."""
    states, content = states.float().cpu(), content.cpu()
    windows = []
    for row, keep in zip(states, content, strict=True):
        runs = row[keep].split(size) if bool(keep.any()) else ()
        means = [torch.nn.functional.normalize(run.mean(dim=0), dim=-1) for run in runs]
        windows.append(torch.stack(means).numpy() if means else row.new_zeros((0, row.shape[-1])).numpy())
    return windows
