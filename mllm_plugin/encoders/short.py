"""The forward pass of a BERT for one short text, in about two thirds of the time of the general one.

With few tokens the time goes into reading weights. As `weight @ states` with the tokens side by side they are
read best; a `Linear`, which multiplies from the other side, takes twice as long.

Shapes: t tokens, h heads, d dimensions. Source: Devlin et al. 2018, "BERT", section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

MOST_TOKENS = 48  # with more the general one is as fast
_EXPECTED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


class ShortBert:
    """Reads one text at a time with the weights of a model, which are not copied.

    Args:
        model: A transformers model for which `reads` is True.
    """

    def __init__(self, model: Any) -> None:
        self._embeddings, self._layers = model.embeddings, model.encoder.layer
        self._heads, self._epsilon = model.config.num_attention_heads, model.config.layer_norm_eps

    @staticmethod
    def reads(model: Any) -> bool:
        """Whether a model is just this architecture, on the CPU, as floats of 32 bits."""
        return (
            type(model).__name__ == "BertModel"
            and all(getattr(model.config, name, value) == value for name, value in _EXPECTED.items())
            and all(one.dtype == torch.float32 and one.device.type == "cpu" for one in model.parameters())
        )

    def states(self, tokens: Tensor) -> Tensor:
        """The last layer's states [t, d] of token ids [t]."""
        parts = self._embeddings
        states = parts.word_embeddings.weight[tokens] + parts.position_embeddings.weight[: len(tokens)]
        states = self._norm((states + parts.token_type_embeddings.weight[0]).t(), parts.LayerNorm)
        for layer in self._layers:
            attention, output = layer.attention, layer.output
            read = _dense(self._attended(states, attention.self), attention.output.dense)
            states = self._norm(states + read, attention.output.LayerNorm)
            wide = gelu(_dense(states, layer.intermediate.dense))
            states = self._norm(states + _dense(wide, output.dense), output.LayerNorm)
        return states.t()

    def _attended(self, states: Tensor, weights: Any) -> Tensor:
        query, key, value = (
            _dense(states, part).view(self._heads, -1, states.shape[1])
            for part in (weights.query, weights.key, weights.value)
        )
        shares = torch.softmax(query.transpose(1, 2) @ key / query.shape[1] ** 0.5, dim=-1)
        return (value @ shares.transpose(1, 2)).view(states.shape)

    def _norm(self, states: Tensor, part: Any) -> Tensor:
        rows = states.t()
        return layer_norm(rows, rows.shape[-1:], part.weight, part.bias, self._epsilon).t().contiguous()


def _dense(states: Tensor, part: Any) -> Tensor:
    """[d, t] to [d', t]."""
    return torch.addmm(part.bias.unsqueeze(1), part.weight, states)
