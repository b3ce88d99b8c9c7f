"""The forward pass of a BERT for one short text, in about two thirds of the time of the general one.

With few tokens the time goes into reading weights. As `weight @ states` with the tokens side by side they are
read best; a `Linear`, which multiplies from the other side, takes twice as long.

Shapes: t tokens, h heads, d dimensions. Source: Devlin et al. 2018, "BERT", section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from mllm_plugin.encoders.onnx import OnnxBert

MOST_TOKENS = 48  # with more the general one is as fast
_EXPECTED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}

_Pair = tuple[Tensor, Tensor]
"""Weight and bias; of a product as a column."""


class _Layer(NamedTuple):
    """Weights of a layer, in the order of their use."""

    attended: _Pair  # query, key and value, one below another
    read: _Pair
    read_norm: _Pair
    wide: _Pair
    narrow: _Pair
    norm: _Pair

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, own = layer.attention, layer.attention.self
        parts = [_column(part) for part in (own.query, own.key, own.value)]
        weight, bias = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(
            (weight, bias),
            _column(attention.output.dense),
            _pair(attention.output.LayerNorm),
            _column(layer.intermediate.dense),
            _column(layer.output.dense),
            _pair(layer.output.LayerNorm),
        )


class ShortBert:
    """Reads one text at a time with the weights of a model; only those of the attention are copied.

    Args:
        model: A transformers model for which `reads` is True.
    """

    def __init__(self, model: Any) -> None:
        parts = model.embeddings
        self._embeddings = [
            getattr(parts, f"{name}_embeddings").weight.detach()
            for name in ("word", "position", "token_type")
        ]
        self._norm, self._layers = _pair(parts.LayerNorm), [*map(_Layer.of, model.encoder.layer)]
        self._heads, self._epsilon = model.config.num_attention_heads, model.config.layer_norm_eps

    @staticmethod
    def reads(model: Any) -> bool:
        """Whether a model is just this architecture, on the CPU, as floats of 32 bits."""
        return (
            type(model).__name__ == "BertModel"
            and all(getattr(model.config, name, value) == value for name, value in _EXPECTED.items())
            and all(
                parameter.dtype == torch.float32 and parameter.device.type == "cpu"
                for parameter in model.parameters()
            )
        )

    def states(self, tokens: Tensor) -> Tensor:
        """The last layer's states [t, d] of token ids [t]."""
        words, places, types = self._embeddings
        states = self._normed(words[tokens] + places[: len(tokens)] + types[0], self._norm)
        for layer in self._layers:
            read = _dense(self._attended(_beside(states), layer.attended), layer.read)
            states = self._normed(states + read.t(), layer.read_norm)
            wide = gelu(_dense(_beside(states), layer.wide))
            states = self._normed(states + _dense(wide, layer.narrow).t(), layer.norm)
        return states

    def _attended(self, states: Tensor, weights: _Pair) -> Tensor:
        """[d, t] to [d, t]."""
        query, key, value = _dense(states, weights).view(3, self._heads, -1, states.shape[1]).unbind()
        shares = torch.softmax(torch.bmm(query.transpose(1, 2), key) / query.shape[1] ** 0.5, dim=-1)
        return torch.bmm(value, shares.transpose(1, 2)).view(states.shape)

    def _normed(self, states: Tensor, weights: _Pair) -> Tensor:
        return layer_norm(states, states.shape[1:], *weights, self._epsilon)


def short_bert(model: Any) -> ShortBert | OnnxBert | None:
    """The quickest reader of one short text with the weights of a model; None when it takes the model."""
    if not ShortBert.reads(model):
        return None
    try:
        return OnnxBert(model)
    except ImportError:
        return ShortBert(model)


def _beside(states: Tensor) -> Tensor:
    """[t, d] to [d, t]."""
    return states.t().contiguous()


def _dense(states: Tensor, weights: _Pair) -> Tensor:
    """[d, t] to [d', t]."""
    weight, bias = weights
    return torch.addmm(bias, weight, states)


def _pair(part: Any) -> _Pair:
    return part.weight.detach(), part.bias.detach()


def _column(part: Any) -> _Pair:
    return part.weight.detach(), part.bias.detach().unsqueeze(1)
