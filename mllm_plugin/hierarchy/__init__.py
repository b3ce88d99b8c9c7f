"""Level encoders and decoder-rankers: tensors in, tensors out; nothing here knows the tree or the store."""

from mllm_plugin.hierarchy.hierarchy import IDENTITY, Hierarchy
from mllm_plugin.hierarchy.identity import CosineRanker, MeanLevelEncoder
from mllm_plugin.hierarchy.leaf import LeafRanker

__all__ = ["IDENTITY", "CosineRanker", "Hierarchy", "LeafRanker", "MeanLevelEncoder"]
