"""What a configuration of mem0 means here: where the memory lies, and what embeds."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_plugin.agent import AgentMemory
from mllm_plugin.encoders import DEFAULT_ENCODER
from mllm_plugin.errors import InvalidInputError, InvalidTypeError

_OWN = ("path", "encoder", "options")
_UNUSED = (
    "llm",
    "history_db_path",
    "reranker",
    "graph_store",
    "version",
    "custom_instructions",
    "custom_prompt",
    "custom_fact_extraction_prompt",
    "custom_update_memory_prompt",
)
_KNOWN = (*_OWN, "vector_store", "embedder", *_UNUSED)
_log = logging.getLogger("mem0_mllm")


def opened(config: Any) -> AgentMemory:
    """The agent memory that a configuration describes; facts that are there already are not written twice.

    Raises:
        InvalidInputError: It has an unknown setting.
        InvalidTypeError: It is no dictionary.
    """
    given = config.model_dump() if hasattr(config, "model_dump") else config or {}
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f"a configuration is a dictionary, got {type(config).__name__}")
    if unknown := sorted(set(given) - set(_KNOWN)):
        raise InvalidInputError(f"unknown setting {unknown[0]!r}; expected one of {', '.join(_KNOWN)}")
    if unused := [name for name in _UNUSED if given.get(name) is not None]:
        _log.warning("no language model and no other database is used; without effect: %s", ", ".join(unused))
    options = {"encoder": _encoder(given), "duplicates": "merge", **(given.get("options") or {})}
    return AgentMemory.open(_path(given), **options)


def _path(given: Mapping[str, Any]) -> Path:
    """The folder: `path`, else a subfolder of where the vector store would lie, else of mem0's own."""
    if given.get("path"):
        return Path(given["path"])
    of_store = _section(given, "vector_store").get("path")
    return Path(of_store or os.environ.get("MEM0_DIR") or Path.home() / ".mem0") / "mllm"


def _encoder(given: Mapping[str, Any]) -> Any:
    """`encoder`, else the embedder where it is local, else the default one."""
    if given.get("encoder") is not None:
        return given["encoder"]
    provider, model = (given.get("embedder") or {}).get("provider"), _section(given, "embedder").get("model")
    if provider in ("huggingface", "langchain") and model:
        return model
    if provider is not None:
        _log.warning("the embedder %r is not used, the default encoder is: pass encoder=", provider)
    return DEFAULT_ENCODER


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (given.get(name) or {}).get("config") or {}
