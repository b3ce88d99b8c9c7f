"""What every reader returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extract:
    """The text of a file.

    Attributes:
        text: The text.
        notes: What of the file is not in it, one sentence each.
        encoding: The encoding that the user named, where the text depends on it.
    """

    text: str
    notes: tuple[str, ...] = ()
    encoding: str | None = None
