"""LangMem, which imports a name of LangGraph that is deprecated."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langmem import create_manage_memory_tool, create_search_memory_tool

__all__ = ["create_manage_memory_tool", "create_search_memory_tool"]
