"""A Llama decoder as one function per layer, with low-rank changes added into its weights at each step.

The layers' weights are stacked, so that all changes of one kind are one batched product, and a compiler sees
the layer once. It computes what transformers' `LlamaModel` does (tests compare them); `models` has what runs
other families through transformers itself.

Shapes: n layers, b rows, t tokens, h width, a heads, d head dimensions, ad those of all heads, kd of all
heads of keys, u units between, v words.

Source: LoRA, Hu et al. 2021; sums in the weights cost one more product per step instead of two per layer and
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from mllm_plugin.folder import check_shapes
from mllm_plugin.llm import lora
from mllm_plugin.shapes import Bool, Float, Int64

NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What a layer needs to know besides its weights."""

    heads: int
    kv_heads: int
    eps: float


class Stack(nn.Module):
    """A decoder with frozen weights, of which some can be replaced.

    Attributes:
        embeddings: Of its input [v, h].
        dtype: It computes in this.
    """

    embeddings: Float[Tensor, "v h"]
    dtype: Any

    def bases(self) -> dict[str, Tensor]:
        """Weights that can be changed [..., out, in], by name."""
        raise NotImplementedError

    def places(self, name: str) -> list[str]:
        """Names in transformers of the layers that a weight is of."""
        raise NotImplementedError

    def frozen(self) -> dict[str, Tensor]:
        """Weights without changes."""
        return {name: weight.to(self.dtype) for name, weight in self.bases().items()}

    def embed(self, ids: Int64[Tensor, "b t"]) -> Float[Tensor, "b t h"]:
        """Input of tokens."""
        return self.embeddings[ids]

    def normed(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        """States after the last norm."""
        raise NotImplementedError

    def logits(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b v"]:
        """Of the next token, from normed states."""
        raise NotImplementedError


class LlamaStack(Stack):
    """Stacked weights of a Llama.

    Args:
        tensors: A Llama model's, by their names in transformers.
        config: Its configuration as a mapping, as config.json has it.
        dtype: To compute in.
    """

    cos: Float[Tensor, "t d"]
    sin: Float[Tensor, "t d"]
    norm: Float[Tensor, " h"]
    output: Float[Tensor, "v h"]

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        dtype: Any = torch.float32,
        longest: int = 512,
    ) -> None:
        super().__init__()
        self.layers, self.dtype = int(config["num_hidden_layers"]), dtype
        heads = int(config["num_attention_heads"])
        self.shape = Shape(heads, int(config["num_key_value_heads"]), float(config["rms_norm_eps"]))
        for name, place in NAMES.items():
            rows = [tensors[f"model.layers.{n}.{place}.weight"] for n in range(self.layers)]
            self.register_buffer(name, torch.stack(rows).float())
        for name, place in (("first_norms", "input_layernorm"), ("second_norms", "post_attention_layernorm")):
            rows = [tensors[f"model.layers.{n}.{place}.weight"] for n in range(self.layers)]
            self.register_buffer(name, torch.stack(rows).to(dtype))
        self.register_buffer("norm", tensors["model.norm.weight"].to(dtype))
        self.register_buffer("embeddings", tensors["model.embed_tokens.weight"].to(dtype))
        own = tensors.get("lm_head.weight") if not config.get("tie_word_embeddings") else None
        self.register_buffer("output", self.embeddings if own is None else own.to(dtype))
        rope = config.get("rope_parameters") or config
        dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        rates = 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, dim, 2).float() / dim)
        angles = torch.outer(torch.arange(longest).float(), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos().to(dtype))
        self.register_buffer("sin", angles.sin().to(dtype))
        self.layer = layer

    def bases(self) -> dict[str, Tensor]:
        """Weights that can be changed [n, out, in], by name."""
        return {name: getattr(self, name) for name in NAMES}

    def places(self, name: str) -> list[str]:
        """Names in transformers of the layers that a weight is of."""
        return [f"model.layers.{n}.{NAMES[name]}" for n in range(self.layers)]

    def forward(
        self,
        embeds: Float[Tensor, "b t h"],
        weights: Weights,
        mask: Bool[Tensor, "#b #a #t t"] | None = None,
        places: Int64[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t h"]:
        """States before the last norm.

        Args:
            embeds: Input.
            weights: Of all layers, from `frozen` or `Changes.added`.
            mask: What may be seen, True = live, broadcast to [b, a, t, t]; None to see what came before.
            places: Where each token stands; one after another when left out.
        """
        cos, sin = self.cos[: embeds.shape[1]], self.sin[: embeds.shape[1]]
        if places is not None:
            cos, sin = self.cos[places].unsqueeze(1), self.sin[places].unsqueeze(1)
        rows = {name: weight.unbind(0) for name, weight in weights.items()}
        first, second = self.first_norms.unbind(0), self.second_norms.unbind(0)  # type: ignore[operator]
        states = embeds
        for n in range(self.layers):
            own = [rows[name][n] for name in NAMES]
            states = self.layer(states, cos, sin, mask, first[n], second[n], *own, shape=self.shape)
        return states

    def normed(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        """States after the last norm."""
        return rms_norm(states, self.norm, self.shape.eps)

    def logits(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b v"]:
        """Of the next token, from normed states."""
        return states @ self.output.T


def layer(
    states: Float[Tensor, "b t h"],
    cos: Float[Tensor, "*#places t d"],
    sin: Float[Tensor, "*#places t d"],
    mask: Bool[Tensor, "#b #a #t t"] | None,
    first: Float[Tensor, " h"],
    second: Float[Tensor, " h"],
    q: Float[Tensor, "ad h"],
    k: Float[Tensor, "kd h"],
    v: Float[Tensor, "kd h"],
    o: Float[Tensor, "h ad"],
    gate: Float[Tensor, "u h"],
    up: Float[Tensor, "u h"],
    down: Float[Tensor, "h u"],
    *,
    shape: Shape,
) -> Float[Tensor, "b t h"]:
    """One layer."""
    rows, length, _ = states.shape
    normed = rms_norm(states, first, shape.eps)

    def heads(weight: Tensor, count: int) -> Tensor:
        return (normed @ weight.T).view(rows, length, count, -1).transpose(1, 2)

    repeats = shape.heads // shape.kv_heads
    query = _rotate(heads(q, shape.heads), cos, sin)
    key = _rotate(heads(k, shape.kv_heads), cos, sin).repeat_interleave(repeats, dim=1)
    value = heads(v, shape.kv_heads).repeat_interleave(repeats, dim=1)
    seen = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    states = states + seen.transpose(1, 2).reshape(rows, length, -1) @ o.T
    normed = rms_norm(states, second, shape.eps)
    return states + (silu(normed @ gate.T) * (normed @ up.T)) @ down.T


def rms_norm(states: Float[Tensor, "*b h"], weight: Float[Tensor, " h"], eps: float) -> Float[Tensor, "*b h"]:
    """As Llama has it: in float32, the weight after."""
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(states.dtype)


def _rotate(
    heads: Float[Tensor, "b a t d"],
    cos: Float[Tensor, "*#places t d"],
    sin: Float[Tensor, "*#places t d"],
) -> Float[Tensor, "b a t d"]:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


class Changes(nn.Module):
    """Low-rank changes to all weights of a stack that can be changed; nothing to begin with.

    Args:
        stack: What is changed.
        rank: Of each change.
        scale: By which they are multiplied.
    """

    def __init__(self, stack: Stack, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.inner, self.outer = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in stack.bases().items():
            *layers, out, into = weight.shape
            self.inner[_key(name)] = nn.Parameter(torch.randn(*layers, rank, into) / into**0.5)
            self.outer[_key(name)] = nn.Parameter(torch.zeros(*layers, out, rank))

    def added(self, stack: Stack) -> dict[str, Tensor]:
        """The stack's weights with the changes in them."""
        found = {}
        for name, weight in stack.bases().items():
            change = self.outer[_key(name)] @ self.inner[_key(name)]
            found[name] = (weight + self.scale * change).to(stack.dtype)
        return found

    def tensors(self, stack: Stack) -> dict[str, Tensor]:
        """Their values, not copied, by the names of the layers in transformers, as `llm.lora` has them."""
        return {
            f"{place}{part}": value
            for name in stack.bases()
            for part, values in ((lora.FIRST, self.inner), (lora.SECOND, self.outer))
            for place, value in _rows(stack.places(name), values[_key(name)].detach())
        }

    def load(self, stack: Stack, tensors: Weights) -> None:
        """Takes values over that `tensors` gave.

        Raises:
            InvalidInputError: They are another model's.
        """
        own = self.tensors(stack)
        expected = {name: tuple(value.shape) for name, value in own.items()}
        check_shapes({name: tuple(one.shape) for name, one in tensors.items()}, expected, "changes")
        for name, value in own.items():
            value.copy_(tensors[name])


def _key(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dots


def _rows(places: list[str], values: Tensor) -> list[tuple[str, Tensor]]:
    rows = values.unbind(0) if values.dim() == 3 else [values]
    return list(zip(places, rows, strict=True))
