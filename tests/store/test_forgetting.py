"""Canaries through every way into a memory and out of it: after `erased=True` no file holds one that is gone.

`make soak` tries $MLLM_ROUNDS (2000) steps.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

from mllm_plugin import Document, IndexBuilder, MemoryIndex, reembed, repair
from mllm_plugin.store.cache import hash_text
from tests.helpers.fault_tools import SOAK
from tests.helpers.robustness_tools import SMALL_GROUPS, some_documents
from tests.helpers.toy import ToyEncoder

ROUNDS = int(os.environ.get("MLLM_ROUNDS", 2000 if SOAK else 40))
CANARY = re.compile(rb"canary([0-9a-f]{16})")
NAMESPACES = [(), ("users", "anna"), ("users", "bob")]


class History:
    """A memory, and the canaries that it should hold."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw, self.folder = random.Random(seed), folder
        self.memory = MemoryIndex.open(folder, encoder=ToyEncoder(), config=SMALL_GROUPS)
        self.memory.add(some_documents(60))
        self.live: dict[tuple[tuple[str, ...], str], str] = {}  # the canary by namespace and id
        self.gone: set[str] = set()
        self.moves = 0

    def document(self, name: str, canary: str) -> Document:
        words = f"canary{canary} " + "word " * self.draw.choice((2, 50, 400))
        metadata = {f"canary{canary}": [{"deep": f"canary{canary}"}], "name": name}
        return Document(words + f"canary{canary}", id=name, metadata=metadata, labels=(f"canary{canary}",))

    def put(self) -> None:
        """New documents and other texts of old ones, by every way in."""
        where, names = self.draw.choice(NAMESPACES), [f"n{self.draw.randrange(40)}" for _ in range(3)]
        fresh = {name: f"{self.draw.getrandbits(64):016x}" for name in names}
        documents = [self.document(name, canary) for name, canary in fresh.items()]
        way = self.draw.randrange(4)
        if way == 0:
            self.memory.add(documents, namespace=where)
        elif way == 1:
            self.memory.add(documents, namespace=where, embeddings=[[1.0] * self.memory.dim] * len(fresh))
        elif way == 2:
            IndexBuilder(self.memory, batch_size=2, progress=False, namespace=where).build(documents)
        else:
            fields = ("id", "text", "metadata", "labels")
            records = [{name: getattr(one, name) for name in fields} for one in documents]
            self.memory.import_records([{**one, "namespace": where} for one in records])
        for name, canary in fresh.items():
            self._forget((where, name))
            self.live[where, name] = canary

    def take(self) -> None:
        """Documents go, by every way out; some are masked before."""
        if not self.live:
            return
        where, name = self.draw.choice(sorted(self.live))
        canary = self.live[where, name]
        if self.draw.random() < 0.4:
            self.memory.mask([name], label=f"canary{canary}", namespace=where)
        way = self.draw.randrange(3)
        which = ({"ids": [name]}, {"filter": {"name": name}}, {"label": f"canary{canary}"})[way]
        report = self.memory.remove(namespace=where, **which)
        assert (report.documents, report.erased) == (1, True)
        self._forget((where, name))

    def look(self) -> None:
        """Everything that leaves something in a cache, an image, or a file while it runs."""
        self.memory.search("canary word", k=20, mode=self.draw.choice(("beam", "flat", "exact")), prefix=True)
        if not self.live:
            return
        (where, name), canary = self.draw.choice(sorted(self.live.items()))
        text = self.memory.get([name], namespace=where)[0].text
        (hit,) = self.memory.search(f"canary{canary}", k=1, namespace=where)
        cache = self.memory.vector_cache("llm", 4)
        assert cache is not None
        vector = next(iter(self.memory.encoder.encode_documents([text])[0]))[:4]
        self.memory.keep_vectors(cache, {hit.chunk_id: (hash_text(where, text), vector, text.encode())})

    def move(self) -> None:
        """A backup, a repair and a copy with another encoder hold what lives now, and go on as the memory."""
        self.moves += 1
        target = self.folder.with_name(f"memory{self.moves}")
        way = self.draw.randrange(3)
        if way == 0:
            target.mkdir()
            self.memory.backup(target / "memory.db")
            self.memory.close()
        elif way == 1:
            self.memory.close()
            repair(self.folder, target, encoder=ToyEncoder(), progress=False)
        else:
            reembed(self.memory, target, ToyEncoder(), progress=False)
            self.memory.close()
        self.folder = target
        self.memory = MemoryIndex.open(target, encoder=ToyEncoder())
        assert self.memory.compact().erased

    def check(self) -> None:
        """No file holds what is gone; the database holds all that lives."""
        assert self.memory.compact().erased
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found = {name.decode() for path in files for name in CANARY.findall(path.read_bytes())}
        assert not found & self.gone
        assert found >= set(self.live.values())

    def _forget(self, key: tuple[tuple[str, ...], str]) -> None:
        if key in self.live:
            self.gone.add(self.live.pop(key))


def test_what_is_gone_is_in_no_file(tmp_path):
    history = History(tmp_path / "memory", seed=8)
    steps = [history.put, history.put, history.take, history.look, history.look]
    for place in range(ROUNDS):
        history.move() if place % 20 == 19 else history.draw.choice(steps)()
        if place % 4 == 3:
            history.check()
    assert history.memory.verify().problems == ()
    history.memory.close()
    print(f"{ROUNDS} steps, {len(history.gone)} canaries gone, {len(history.live)} alive")
    assert len(history.gone) > ROUNDS / 8
