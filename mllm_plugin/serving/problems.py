"""What goes wrong in a call, as both servers say it: a status of HTTP, the type and one line."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mllm_plugin.errors import (
    AccessError,
    DiskFullError,
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    MLLMError,
    NotFoundError,
    ReadOnlyStoreError,
    StoreBusyError,
    VersionConflictError,
)

_FAULTS, _LONGEST = 3, 100  # wrong arguments that are told, characters of where each is
_SOON = 1.0  # seconds after which a busy store may be free
_LOG = logging.getLogger("mllm_plugin.serving")


@dataclass(frozen=True)
class Problem:
    """An error for a caller.

    Attributes:
        status: Of HTTP.
        type: Name of the error's class, or of what HTTP found.
        message: What to do about it, in one line.
        retry_after: Seconds after which the same call may succeed.
    """

    status: int
    type: str
    message: str
    retry_after: float | None = None

    def body(self) -> bytes:
        """The body of an answer, as JSON; what is no valid Unicode is spelt out."""
        said = {"error": {"type": self.type, "message": self.message}}
        return json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def headers(self) -> dict[str, str]:
        """What HTTP says beside the body."""
        said = {"content-type": "application/json"}
        if self.status == 401:
            said["www-authenticate"] = "Bearer"
        if self.status == 413:
            said["connection"] = "close"  # the rest of the body is not read
        if self.retry_after is not None:
            said["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return said


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (AccessError, 403),
    (NotFoundError, 404),
    (VersionConflictError, 409),
    (InvalidInputError, 422),
    (InvalidTypeError, 422),
    (ReadOnlyStoreError, 403),
    (StoreBusyError, 503),
    (DiskFullError, 507),
    (MissingDependencyError, 500),
    (MLLMError, 500),
)


def problem_of(error: Exception) -> Problem:
    """Says an error; an unforeseen one is logged by type and place: its words may be a text."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        return invalid(faults)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            again = _SOON if isinstance(error, StoreBusyError) else None
            return Problem(status, type(error).__name__, " ".join(str(error).split()), again)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {one.filename}:{one.lineno}" for one in place)
    _LOG.error("unforeseen %s%s", type(error).__name__, where)
    return Problem(500, "InternalError", f"an unforeseen {type(error).__name__}; the server's log says where")


def invalid(faults: Sequence[Mapping[str, Any]]) -> Problem:
    """Says the first wrong arguments and what is wrong, without their values.

    Args:
        faults: As pydantic finds them.
    """
    said = [f"{_place(one['loc'])}: {one['msg']}" for one in faults[:_FAULTS]]
    more = len(faults) - len(said)
    return Problem(422, "InvalidInputError", "; ".join(said) + (f"; and {more} more" if more else ""))


def _place(parts: Sequence[str | int]) -> str:
    named = ".".join(str(one) for one in parts if one != "body") or "arguments"
    return named if len(named) <= _LONGEST else f"{named[:_LONGEST]}…"
