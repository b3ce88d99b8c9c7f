"""An agent's memory without a framework: two users, a fact that changes, and one that is forgotten."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta, timezone

from mllm_plugin import AgentMemory

JUNE = datetime(2025, 6, 1, tzinfo=timezone.utc)


def main() -> None:
    """Tells, asks, changes and forgets."""
    with tempfile.TemporaryDirectory() as folder, AgentMemory.open(folder) as memory:
        ann, bob = memory.scope(user="ann"), memory.scope(user="bob")
        chat = ann.scope(session="monday", participants=("Ann", "Assistant"))
        chat.remember("I moved to Rome last week.", speaker="Ann", at=JUNE)
        chat.remember("How do you like it there?", speaker="Assistant", at=JUNE + timedelta(minutes=1))
        chat.remember("The coffee is wonderful.", speaker="Ann", at=JUNE + timedelta(minutes=2))
        ann.remember("Ann works at Acme.", id="work", at=JUNE)
        bob.remember("Bob works at Initech.")

        print("Where does Ann work?", "->", ann.recall("Where does Ann work?", k=1)[0].text)
        ann.update("work", text="Ann works at Initech.", at=JUNE + timedelta(days=30))
        print("And now?", "->", ann.recall("Where does Ann work?", k=1)[0].text)
        print("In June?", "->", ann.recall("Where does Ann work?", k=1, as_of=JUNE)[0].text)
        print("For a prompt:", ann.context("Where did Ann move?", k=2), sep="\n")
        print("Forgotten, erased:", ann.forget("work").erased)
        print("Bob's memory is his own:", [item.text for item in bob.recall("Rome coffee Acme")])


if __name__ == "__main__":
    main()
