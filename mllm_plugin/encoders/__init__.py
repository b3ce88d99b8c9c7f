"""Encoder 1: texts to embeddings."""

from mllm_plugin.encoders.frameworks import EncoderLike, FrameworkEncoder, VectorsOnly, as_encoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER, resolve_model

__all__ = ["DEFAULT_ENCODER", "EncoderLike", "FrameworkEncoder", "VectorsOnly", "as_encoder", "resolve_model"]
