"""Level encoders and decoder-rankers: tensors in, tensors out; nothing here knows the tree or the store."""

from mllm_plugin.hierarchy.hierarchy import IDENTITY, Hierarchy
from mllm_plugin.hierarchy.leaf import LeafRanker
from mllm_plugin.hierarchy.modules import AttentionLevelEncoder, CosineRanker, MappedRanker, MeanLevelEncoder
from mllm_plugin.hierarchy.reranking import PairReranker, RerankerLike, as_reranker
from mllm_plugin.hierarchy.weights import (
    Weights,
    WeightsConfig,
    document_mark,
    parse_weights,
    read_weights,
    shipped_weights,
)

__all__ = [
    "IDENTITY",
    "AttentionLevelEncoder",
    "CosineRanker",
    "Hierarchy",
    "LeafRanker",
    "MappedRanker",
    "MeanLevelEncoder",
    "PairReranker",
    "RerankerLike",
    "Weights",
    "WeightsConfig",
    "as_reranker",
    "document_mark",
    "parse_weights",
    "read_weights",
    "shipped_weights",
]
