"""Any causal language model of transformers as a stack whose weights can be replaced while it runs.

Shapes as in `stack`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import LoadedLLM, lora
from mllm_plugin.shapes import Bool, Float, Int64
from mllm_plugin.training.reader.stack import LlamaStack, Stack, Weights

_CLOSE = 1e-2


class ModelStack(Stack):
    """A model as it is loaded; its own weights stay as they are.

    Args:
        llm: The model.

    Raises:
        InvalidInputError: It does more between its states and its output than its output layer.
    """

    def __init__(self, llm: LoadedLLM) -> None:
        super().__init__()
        self._model, self.dtype = [llm.model], llm.dtype  # in a list, or its weights were this module's
        self.register_buffer("embeddings", llm.embeddings.weight.detach(), persistent=False)
        decoder = llm.model.get_decoder()
        self._prefix = next(f"{name}." for name, one in llm.model.named_modules() if one is decoder)
        self._names = list(lora.linear_layers(llm.model))
        self._check(llm)

    @property
    def model(self) -> Any:
        """The model."""
        return self._model[0]

    def bases(self) -> dict[str, Tensor]:
        """Weights that can be changed, by the names of their layers."""
        return {
            name: module.weight.detach().float() for name, module in lora.linear_layers(self.model).items()
        }

    def places(self, name: str) -> list[str]:
        """The layer that a weight is of."""
        return [name]

    def embed(self, ids: Int64[Tensor, "b t"]) -> Float[Tensor, "b t h"]:
        """Input of tokens."""
        return self.model.get_input_embeddings()(ids)

    def forward(
        self,
        embeds: Float[Tensor, "b t h"],
        weights: Weights,
        mask: Bool[Tensor, "#b #a #t t"] | None = None,
    ) -> Float[Tensor, "b t h"]:
        """States; see `LlamaStack.forward`, but after the last norm."""
        given = {f"{name.removeprefix(self._prefix)}.weight": weight for name, weight in weights.items()}
        if mask is not None:
            length = embeds.shape[1]
            dead = ~mask.expand(len(embeds), 1, length, length)
            mask = torch.zeros_like(dead, dtype=self.dtype).masked_fill(dead, torch.finfo(self.dtype).min)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False}
        return functional_call(self.model.get_decoder(), given, (), inputs).last_hidden_state

    def normed(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        """The same: transformers has normed them."""
        return states

    def logits(self, states: Float[Tensor, "*b h"]) -> Float[Tensor, "*b v"]:
        """Of the next token, from normed states."""
        return self.model.get_output_embeddings()(states)

    @torch.no_grad()
    def _check(self, llm: LoadedLLM) -> None:
        ids = torch.arange(8, device=llm.device)[None]
        expected = llm.model(ids).logits
        found = self.logits(self(self.embed(ids), self.frozen()))
        if not self._names or (found - expected).abs().max() > _CLOSE * expected.abs().max():
            raise InvalidInputError(
                f"a reader cannot be trained for {llm.name}: it has no linear layers, or its output is not "
                f"its output layer's; expected a decoder such as Llama, Qwen, Mistral or GPT-2"
            )


def stack_of(llm: LoadedLLM, longest: int) -> Stack:
    """The quickest stack that is the model.

    Args:
        llm: The model.
        longest: Longest row in tokens.
    """
    config = llm.model.config.to_dict()
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    plain = not (config.get("attention_bias") or config.get("mlp_bias"))
    plain = plain and rope.get("rope_type", "default") == "default" and config.get("hidden_act") == "silu"
    if config["model_type"] != "llama" or not plain:
        return ModelStack(llm)
    return LlamaStack(llm.model.state_dict(), config, dtype=llm.dtype, longest=longest)
