"""Text that can be stored: valid Unicode, which a Python string need not be."""

from __future__ import annotations


def text_flaw(text: str) -> str:
    """Why a text cannot be stored; empty when it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"holds a lone surrogate at {error.start}, which is no valid Unicode; decode the source with "
            f"errors='replace'"
        )
    return ""
