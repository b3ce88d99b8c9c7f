"""Jupyter notebooks to text: the cells in order, with what they printed; pictures are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mllm_plugin.errors import InvalidDocumentError

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def notebook_text(text: str) -> str:
    """Returns the cells' sources and printed outputs, a blank line between them.

    Raises:
        InvalidDocumentError: It is no notebook.
    """
    try:
        notebook = json.loads(text)
        sheets = [notebook, *notebook.get("worksheets", [])]  # format 3 keeps its cells in worksheets
        parts = [part for sheet in sheets for cell in sheet.get("cells", []) for part in _parts(cell)]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidDocumentError(f"damaged notebook ({type(error).__name__}: {error})") from error
    return "\n\n".join(part for part in parts if part.strip())


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    yield _text(cell.get("source", cell.get("input", "")))
    for output in cell.get("outputs", []):
        data = output.get("data", output)
        yield _COLOUR.sub("", _text(output.get("text") or data.get("text/plain") or ""))


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
