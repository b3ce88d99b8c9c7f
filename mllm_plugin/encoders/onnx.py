"""The forward pass of a BERT for one short text in ONNX Runtime, where it is installed.

Its layers are four fused operators and three products, whose weights it lays out for reading; around the
products of `short.ShortBert` torch spends a third of the time on calls.

Shapes: t tokens, d dimensions. Operators: ONNX Runtime's `com.microsoft` domain.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_plugin.shapes import Float, Int

# Without it releases from 1.29 on keep an identifier and tell Microsoft of sessions (their Privacy.md). It is
# read once, when the package is first imported.
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_OPERATORS = "com.microsoft"


class OnnxBert:
    """Reads one text at a time with a copy of a model's weights, on the thread that asks.

    Args:
        model: A transformers model for which `short.ShortBert.reads` is True.

    Raises:
        ImportError: `onnx` or `onnxruntime` is not installed.
    """

    def __init__(self, model: Any) -> None:
        os.environ.setdefault(_NO_TELEMETRY, "1")
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors alone
        self._embed = model.embeddings
        self._session = onnxruntime.InferenceSession(
            _Graph(model.config).of(model.encoder.layer), options, providers=["CPUExecutionProvider"]
        )

    def states(self, tokens: Int[Tensor, " t"]) -> Float[Tensor, "t d"]:
        """The last layer's states [t, d] of token ids [t]."""
        embedded = self._embed(tokens[None]).numpy()
        (found,) = self._session.run(None, {"states": embedded})
        return torch.from_numpy(np.asarray(found)[0])


class _Graph:
    """Layers of a BERT, one after the other, as an ONNX model of states [1, t, d]."""

    def __init__(self, config: Any) -> None:
        import onnx

        self._onnx, self._config = onnx, config
        self._weights: list[Any] = []
        self._nodes: list[Any] = []

    def of(self, layers: Any) -> bytes:
        helper, states = self._onnx.helper, "states"
        for layer in layers:
            states = self._layer(states, layer)
        ends = [
            helper.make_tensor_value_info(
                name, self._onnx.TensorProto.FLOAT, [1, "t", self._config.hidden_size]
            )
            for name in ("states", states)
        ]
        graph = helper.make_graph(self._nodes, "bert", ends[:1], ends[1:], self._weights)
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(_OPERATORS, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString()

    def _layer(self, states: str, layer: Any) -> str:
        own, out = layer.attention.self, layer.attention.output
        asked = [own.query, own.key, own.value]
        weight, bias = (torch.cat([getattr(part, name) for part in asked]) for name in ("weight", "bias"))
        inputs = [states, self._weight(weight.t()), self._weight(bias)]
        read = self._node("Attention", inputs, num_heads=self._config.num_attention_heads)
        states = self._normed(self._product(read, out.dense), states, out)
        wide = self._product(states, layer.intermediate.dense)
        wide = self._node("BiasGelu", [wide, self._weight(layer.intermediate.dense.bias)])
        return self._normed(self._product(wide, layer.output.dense), states, layer.output)

    def _product(self, states: str, part: Any) -> str:
        return self._node("MatMul", [states, self._weight(part.weight.t())], domain="")

    def _normed(self, added: str, states: str, part: Any) -> str:
        """Layer norm of states, what was read and its bias."""
        weights = [part.LayerNorm.weight, part.LayerNorm.bias, part.dense.bias]
        inputs = [added, states, *map(self._weight, weights)]
        return self._node("SkipLayerNormalization", inputs, epsilon=self._config.layer_norm_eps)

    def _weight(self, weight: Tensor) -> str:
        name = f"w{len(self._weights)}"
        array = np.ascontiguousarray(weight.detach().numpy())
        self._weights.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _node(self, operator: str, inputs: list[str], domain: str = _OPERATORS, **settings: Any) -> str:
        name = f"n{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], domain=domain, **settings))
        return name
