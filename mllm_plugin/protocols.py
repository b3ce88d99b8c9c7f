"""What can be swapped, in one place: inherit one of these, or write an object with the same members."""

from mllm_plugin.encoders.base import TextEncoder, Vectors
from mllm_plugin.hierarchy.base import LevelEncoder, Ranker, Reranker

__all__ = ["LevelEncoder", "Ranker", "Reranker", "TextEncoder", "Vectors"]
