"""The forward pass of BERT-like encoders in numpy: a few short texts need not wait for torch to be imported.

Shapes: t tokens, h heads, d dimensions. Source: Devlin et al. 2018, "BERT", section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.encoders.folder import ModelFolder
from mllm_plugin.extras import needs
from mllm_plugin.shapes import Float32, Int64

Array = NDArray[np.float32]
_EXPECTED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class NumpyBert:
    """One text at a time through a BERT encoder and its word-piece tokenizer.

    Args:
        folder: A folder for which `reads` is True.
    """

    def __init__(self, folder: ModelFolder) -> None:
        from safetensors.numpy import load_file

        with needs("local", f"the tokenizer in {folder.path}"):
            from tokenizers import Tokenizer
        config = folder.json("config.json")
        self._heads, self._epsilon = config["num_attention_heads"], config.get("layer_norm_eps", 1e-12)
        self._layers = config["num_hidden_layers"]
        weights = load_file(folder.path / "model.safetensors")
        self._weights = {name.removeprefix("bert."): value for name, value in weights.items()}
        self.tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._threads = _one_thread()
        self.unknown = self.tokenizer.token_to_id(self.tokenizer.model.unk_token)

    @staticmethod
    def reads(folder: ModelFolder) -> bool:
        """Whether the folder holds just this architecture, with a tokenizer that transformers reads alike."""
        config, tokenizer = folder.json("config.json") or {}, folder.json("tokenizer.json") or {}
        return (
            config.get("model_type") == "bert"
            and all(config.get(name, value) == value for name, value in _EXPECTED.items())
            and (tokenizer.get("model") or {}).get("type") == "WordPiece"
            and _normalizes_alike(tokenizer, folder.json("tokenizer_config.json") or {})
            and _complete(folder.path / "model.safetensors", config.get("num_hidden_layers", 0))
        )

    def states(self, tokens: Int64[np.ndarray, " t"]) -> Float32[np.ndarray, "t d"]:
        """The last layer's states [t, d] of token ids [t]."""
        with self._threads():  # several wait longer for each other than they work
            return self._states(tokens)

    def _states(self, tokens: NDArray[np.int64]) -> Array:
        weights = self._weights
        states = weights["embeddings.word_embeddings.weight"][tokens]
        states = states + weights["embeddings.position_embeddings.weight"][: len(tokens)]
        states = self._norm(states + weights["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}"
            read = self._dense(
                self._attended(states, f"{name}.attention.self"), f"{name}.attention.output.dense"
            )
            states = self._norm(states + read, f"{name}.attention.output")
            wide = _gelu(self._dense(states, f"{name}.intermediate.dense"))
            states = self._norm(states + self._dense(wide, f"{name}.output.dense"), f"{name}.output")
        return states

    def _attended(self, states: Array, name: str) -> Array:
        query, key, value = (
            self._dense(states, f"{name}.{part}").reshape(len(states), self._heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.float32(query.shape[-1] ** 0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        read = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        return read.swapaxes(0, 1).reshape(states.shape)

    def _dense(self, states: Array, name: str) -> Array:
        read = self._weights[f"{name}.weight"] @ states.T  # in this order the weights are read fastest
        return read.T + self._weights[f"{name}.bias"]

    def _norm(self, states: Array, name: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._epsilon))
        scale, shift = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return centred / deviation * scale + shift


def _gelu(values: Array) -> Array:
    """x * normal cdf(x); the error function to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    size = np.abs(values) / np.float32(2**0.5)
    inverse = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(values)
    for factor in reversed(_ERF):
        series = (series + np.float32(factor)) * inverse
    error = np.copysign(1 - series * np.exp(-size * size), values)
    return (values * (1 + error) / 2).astype(np.float32)


def _normalizes_alike(tokenizer: dict[str, Any], config: dict[str, Any]) -> bool:
    """transformers makes a BERT tokenizer from its settings, tokenizer.json aside: both must say the same."""
    stated = tokenizer.get("normalizer") or {}
    return (
        stated.get("type") == "BertNormalizer"
        and config.get("tokenizer_class") in ("BertTokenizer", "BertTokenizerFast")
        and stated.get("lowercase") == config.get("do_lower_case", True)
        and stated.get("strip_accents") == config.get("strip_accents")
        and stated.get("handle_chinese_chars") == config.get("tokenize_chinese_chars", True)
    )


def _complete(weights: Path, layers: int) -> bool:
    """Whether all weights that `states` reads are there, as floats of 32 bits."""
    from safetensors import SafetensorError, safe_open

    dense = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    parts = [*dense, "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]
    names = [f"encoder.layer.{layer}.{part}" for layer in range(layers) for part in parts]
    needed = [f"{name}.{what}" for name in [*names, "embeddings.LayerNorm"] for what in ("weight", "bias")]
    needed += [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    try:
        with safe_open(weights, framework="numpy") as stored:
            there = {name.removeprefix("bert."): name for name in stored.keys()}  # noqa: SIM118 - no mapping
            return all(
                name in there and stored.get_slice(there[name]).get_dtype() == "F32" for name in needed
            )
    except (OSError, SafetensorError):
        return False


def _one_thread() -> Callable[[], AbstractContextManager[Any]]:
    """What keeps numpy to one thread, where the package for it is installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return nullcontext
    return partial(ThreadpoolController().limit, limits=1, user_api="blas")
