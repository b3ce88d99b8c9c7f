"""Where a search looks, and at what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mllm_plugin.types import Namespace


@dataclass(frozen=True)
class Scope:
    """The part of a memory that a call may see, checked.

    Attributes:
        namespace: Where to look.
        prefix: Look in every namespace below it too.
        filter: Metadata condition.
        exclude_labels: Documents with one of these labels are left out.
    """

    namespace: Namespace = ()
    prefix: bool = False
    filter: Mapping[str, Any] | None = None
    exclude_labels: tuple[str, ...] = ()


SCOPE: Mapping[str, Any] = {field.name: field.default for field in fields(Scope)}
"""The options that make a scope, with their defaults."""
