"""What the tests of front ends over an agent memory share."""

from __future__ import annotations

from pathlib import Path


def any_file_holds(folder: Path, text: str) -> bool:
    """Whether a file below a folder holds a text, as it is or escaped as in JSON."""
    forms = {text.encode("utf-8"), text.encode("unicode_escape")}
    held = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return any(form in data for form in forms for data in held)
