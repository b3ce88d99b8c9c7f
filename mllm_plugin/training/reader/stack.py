"""A Llama decoder as one function per layer, with low-rank changes added into its weights at each step.

The layers' weights are stacked, so that all changes of one kind are one batched product, and a compiler sees
the layer once. It computes what transformers' `LlamaModel` does (tests compare them); models of other
families are trained through transformers itself.

Shapes: n layers, b rows, t tokens, h width, a heads, d head dimensions.

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


class LlamaStack(nn.Module):
    """Frozen weights of a decoder.

    Args:
        tensors: A Llama model's, by their names in transformers.
        config: Its configuration as a mapping, as config.json has it.
        dtype: To compute in.
    """

    cos: Tensor
    sin: Tensor
    embeddings: Tensor
    norm: Tensor

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
        rope = config.get("rope_parameters") or config
        dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        rates = 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, dim, 2).float() / dim)
        angles = torch.outer(torch.arange(longest).float(), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos().to(dtype))
        self.register_buffer("sin", angles.sin().to(dtype))
        self.layer = layer

    def frozen(self) -> dict[str, Tensor]:
        """Weights without changes."""
        return {name: getattr(self, name).to(self.dtype) for name in NAMES}

    def forward(self, embeds: Tensor, weights: Weights, mask: Tensor | None = None) -> Tensor:
        """States [b, t, h] before the last norm.

        Args:
            embeds: Input [b, t, h].
            weights: Of all layers, from `frozen` or `Changes.added`.
            mask: What may be seen, True = live, broadcast to [b, a, t, t]; None to see what came before.
        """
        length = embeds.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        rows = {name: weight.unbind(0) for name, weight in weights.items()}
        first, second = self.first_norms.unbind(0), self.second_norms.unbind(0)  # type: ignore[operator]
        states = embeds
        for n in range(self.layers):
            own = [rows[name][n] for name in NAMES]
            states = self.layer(states, cos, sin, mask, first[n], second[n], *own, shape=self.shape)
        return states

    def normed(self, states: Tensor) -> Tensor:
        """States after the last norm."""
        return rms_norm(states, self.norm, self.shape.eps)


def layer(
    states: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor | None,
    first: Tensor,
    second: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    *,
    shape: Shape,
) -> Tensor:
    """One layer on states [b, t, h]."""
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


def rms_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As Llama has it: in float32, the weight after."""
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(states.dtype)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


class Changes(nn.Module):
    """Low-rank changes to all layers of a stack; nothing to begin with.

    Args:
        stack: What is changed.
        rank: Of each change.
        alpha: Their scale, relative to the rank.
    """

    def __init__(self, stack: LlamaStack, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.inner, self.outer = nn.ParameterDict(), nn.ParameterDict()
        for name in NAMES:
            layers, out, into = getattr(stack, name).shape
            self.inner[name] = nn.Parameter(torch.randn(layers, rank, into) / into**0.5)
            self.outer[name] = nn.Parameter(torch.zeros(layers, out, rank))

    def added(self, stack: LlamaStack) -> dict[str, Tensor]:
        """The stack's weights with the changes in them."""
        found = {}
        for name in NAMES:
            change = torch.bmm(self.outer[name], self.inner[name])
            found[name] = (getattr(stack, name) + self.scale * change).to(stack.dtype)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Their values by the names that peft gives them."""
        found = {}
        for name, place in NAMES.items():
            pairs = zip(self.inner[name].detach(), self.outer[name].detach(), strict=True)
            for n, (inner, outer) in enumerate(pairs):
                found[f"model.layers.{n}.{place}.lora_A.weight"] = inner
                found[f"model.layers.{n}.{place}.lora_B.weight"] = outer
        return found
