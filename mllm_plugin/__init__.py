"""LLM with memory: documents in an editable tree of embeddings on disk, searched from the top down."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import mllm_start  # noqa: F401 - makes an interruption of the imports below quiet

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentMemory, AgentScope
    from mllm_plugin.bulk.builder import IndexBuilder
    from mllm_plugin.bulk.reembedding import reembed
    from mllm_plugin.bulk.repairing import repair
    from mllm_plugin.config import (
        ChunkingConfig,
        LeafConfig,
        LexicalConfig,
        MemoryConfig,
        SearchConfig,
        TreeConfig,
    )
    from mllm_plugin.errors import (
        AdapterMismatchError,
        ClosedError,
        DamagedStoreError,
        DimensionMismatchError,
        DiskFullError,
        EncoderMismatchError,
        FilterError,
        FormatVersionError,
        InvalidDocumentError,
        InvalidInputError,
        InvalidTypeError,
        MissingDependencyError,
        MLLMError,
        ModelNotFoundError,
        NotFoundError,
        ReadOnlyStoreError,
        StoreBusyError,
        StoreError,
        UnsupportedFilesystemError,
        VersionConflictError,
    )
    from mllm_plugin.memory import MemoryIndex
    from mllm_plugin.memory.batch import Batch
    from mllm_plugin.reports import (
        AddReport,
        BuildReport,
        CompactReport,
        InstallReport,
        MaskReport,
        RemoveReport,
        RepairReport,
        SkippedDocument,
        Stats,
        UpdateReport,
        VerifyReport,
    )
    from mllm_plugin.search.query import Recency
    from mllm_plugin.types import (
        Document,
        Hit,
        Hits,
        MemoryEmbedding,
        PathStep,
        Recall,
        SearchStatistics,
        StoredDocument,
        Topic,
    )

__version__ = "0.1.0"

__all__ = [
    "AdapterMismatchError",
    "AddReport",
    "AgentMemory",
    "AgentScope",
    "Batch",
    "BuildReport",
    "ChunkingConfig",
    "ClosedError",
    "CompactReport",
    "DamagedStoreError",
    "DimensionMismatchError",
    "DiskFullError",
    "Document",
    "EncoderMismatchError",
    "FilterError",
    "FormatVersionError",
    "Hit",
    "Hits",
    "IndexBuilder",
    "InstallReport",
    "InvalidDocumentError",
    "InvalidInputError",
    "InvalidTypeError",
    "LeafConfig",
    "LexicalConfig",
    "MLLMError",
    "MaskReport",
    "MemoryConfig",
    "MemoryEmbedding",
    "MemoryIndex",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NotFoundError",
    "PathStep",
    "ReadOnlyStoreError",
    "Recall",
    "Recency",
    "RemoveReport",
    "RepairReport",
    "SearchConfig",
    "SearchStatistics",
    "SkippedDocument",
    "Stats",
    "StoreBusyError",
    "StoreError",
    "StoredDocument",
    "Topic",
    "TreeConfig",
    "UnsupportedFilesystemError",
    "UpdateReport",
    "VerifyReport",
    "VersionConflictError",
    "reembed",
    "repair",
]

# Modules are loaded when a name of theirs is asked for: a command that needs few of them answers at once.
_HOMES = {
    "AgentMemory": "agent",
    "AgentScope": "agent",
    "Batch": "memory.batch",
    "IndexBuilder": "bulk.builder",
    "MemoryIndex": "memory",
    "Recency": "search.query",
    "reembed": "bulk.reembedding",
    "repair": "bulk.repairing",
}
_VALUES = ("errors", "config", "types", "reports")  # where all others are


def __getattr__(name: str) -> Any:
    homes = ((_HOMES[name],) if name in _HOMES else _VALUES) if name in __all__ else ()
    for module in (import_module(f"{__name__}.{home}") for home in homes):
        if hasattr(module, name):
            globals()[name] = getattr(module, name)
            return globals()[name]
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
