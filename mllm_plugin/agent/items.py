"""What an agent memory gives back: plain frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mllm_plugin.reports import RemoveReport
from mllm_plugin.types import ToDict


@dataclass(frozen=True, slots=True)
class Memory(ToDict):
    """One remembered item.

    Attributes:
        id: Unique within its scope.
        text: As it was given.
        kind: "fact", "message", or whatever name it was given.
        metadata: As given.
        scope: Where it lies: the names of its scope by key, such as `{"user": "ann"}`.
        session, speaker: Where and by whom it was said; None where that was not told.
        source: Where it comes from, as given: a name, a link, or a dictionary with a span of a text.
        derived_from: Ids of the items that it was made of.
        at: When it was said or happened; when it was remembered where that was not told.
        created_at, updated_at: When it was first written, and last.
        expires_at: When it is forgotten by itself; None for never.
        valid_from, valid_to: From when until when it held; None where it is open.
        version: 1 for what was first written, one more with every update.
        masks: Names of the masks that hide it; "superseded" for an old version, "hidden" for what was hidden.
        score, relevance: Of a recall, with the evidence of its neighbours; and calibrated to [0, 1]: the
            search's own, without them. None for what was not searched.
        before, after: Texts of the neighbouring messages of its session, oldest first.
    """

    id: str
    text: str
    kind: str
    metadata: dict[str, Any]
    scope: dict[str, str]
    session: str | None
    speaker: str | None
    source: Any
    derived_from: tuple[str, ...]
    at: datetime
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    version: int = 1
    masks: tuple[str, ...] = ()
    score: float | None = None
    relevance: float | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether a recall may find it."""
        return not self.masks

    def line(self) -> str:
        """The item as one line of a prompt: date, speaker and text."""
        said = f"{self.speaker}: {self.text}" if self.speaker else self.text
        return f"[{self.at:%Y-%m-%d}] {' '.join(said.split())}"


@dataclass(frozen=True, slots=True)
class Duplicate(ToDict):
    """An item that says nearly the same.

    Attributes:
        id: Of the item that was there.
        text: Of it.
        similarity: Cosine of the two texts; 1.0 where they are equal but for case and blanks.
    """

    id: str
    text: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Remembered(ToDict):
    """What `remember` or `update` did.

    Attributes:
        id: Of the item; of the one that was there where a duplicate was merged into it.
        version: It now has.
        duplicates: Items that say nearly the same, the nearest first.
        merged: True where nothing was added because a duplicate was there.
        superseded: Ids of the items that it took the place of.
        erased: False where a file still holds a text that was replaced for good.
        reason: Why, and what to do; empty otherwise.
    """

    id: str
    version: int
    duplicates: tuple[Duplicate, ...] = ()
    merged: bool = False
    superseded: tuple[str, ...] = ()
    erased: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forgotten(ToDict):
    """What `forget` did.

    Attributes:
        ids: Items that were forgotten, as asked.
        derived: Ids of old versions and of items made of these, which went with them.
        erased: True only when no file of the memory holds a text or a vector of them any more; False for
            what was only hidden.
        missing: Ids that were not there.
        reason: Why `erased` is False, and what to do; empty otherwise.
        reports: The removals, a report for each scope.
    """

    ids: tuple[str, ...]
    derived: tuple[str, ...] = ()
    erased: bool = True
    missing: tuple[str, ...] = ()
    reason: str = ""
    reports: tuple[RemoveReport, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentTopic(ToDict):
    """A part of the memory that hangs together: a node of the tree.

    Attributes:
        label: The words that set it apart from the rest.
        size: Items below the node.
        first, last: Time of the oldest and of the newest.
        faces: The most central items, nearest to the middle first.
        level: Of the node; the higher, the wider the topic.
        score: How well it answers the topic that was asked for; None without one.
        scope: Where it lies.
        ids: All items below the node.
    """

    label: tuple[str, ...]
    size: int
    first: datetime
    last: datetime
    faces: tuple[Memory, ...]
    level: int
    score: float | None = None
    scope: dict[str, str] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def line(self) -> str:
        """The topic as one line of a prompt."""
        span = f"{self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
        face = f"; e.g. {' '.join(self.faces[0].text.split())}" if self.faces else ""
        return f"{', '.join(self.label) or 'other'} ({self.size} items, {span}){face}"


@dataclass(frozen=True, slots=True)
class Consolidated(ToDict):
    """Items that say nearly the same, as `consolidate` found them.

    Attributes:
        ids: Of the group, the most central first.
        texts: Of these.
        similarity: The lowest cosine with the first.
        into: Id of the item that took their place; None where it is only proposed.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    similarity: float
    into: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry(ToDict):
    """One line of the audit log; it holds no text.

    Attributes:
        at: When.
        action: "remember", "recall", "update", "hide", "restore", "forget", "expire".
        scope: Of whoever acted.
        ids: Of the items; without those that were erased since.
        count: How many there were.
    """

    at: datetime
    action: str
    scope: Mapping[str, str]
    ids: tuple[str, ...]
    count: int
