"""The search image: memory-mapped arrays derived from the file, and the walk over them.

Deleted, damaged or missing, they are made again from the file; they are never the truth.
"""

from mllm_plugin.image.descent import Found, Plan, SpaceWindows, compare, exact_order, lexical, nearest, walk
from mllm_plugin.image.folder import ImageFolder
from mllm_plugin.image.source import Delta, read_delta, read_space
from mllm_plugin.image.space import Space

__all__ = [
    "Delta",
    "Found",
    "ImageFolder",
    "Plan",
    "Space",
    "SpaceWindows",
    "compare",
    "exact_order",
    "lexical",
    "nearest",
    "read_delta",
    "read_space",
    "walk",
]
