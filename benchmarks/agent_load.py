"""An agent memory under load: many writers at once, a recall over many scopes, a long chat.

    OMP_NUM_THREADS=1 python benchmarks/agent_load.py [--users 100] [--scopes 1000] [--messages 100000]

What is timed is encoded by the default encoder; what only fills the memory gets random vectors about 1,000
centres, of the same width, with a window each. Times are wall times of one caller, the processor's beside
them, since other work may run.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, print_table

from mllm_plugin import Document, IndexBuilder
from mllm_plugin.agent import AgentMemory, writing
from mllm_plugin.agent.writing import Given
from mllm_plugin.encoders import DEFAULT_ENCODER, as_encoder
from mllm_plugin.protocols import TextEncoder

WORDS = [
    f"{a}{b}{c}" for a in ("bar", "cor", "dun", "fel", "gol", "mar", "sil") for b in "aeiou" for c in "nrstk"
]
PROCESSES = 4


class Filling(TextEncoder):
    """Another encoder, or random vectors in place of it while `cheap`."""

    def __init__(self, name: str = DEFAULT_ENCODER) -> None:
        self._encoder: Any = as_encoder(name)
        self.dim, self.fingerprint, self.cheap = self._encoder.dim, self._encoder.fingerprint, False
        self.max_tokens = self._encoder.max_tokens
        self._draw = np.random.default_rng(0)
        self._centres = self._draw.normal(size=(1000, self.dim)).astype(np.float32)

    def encode_documents(self, texts: Any) -> Any:
        """As the encoder's."""
        if not self.cheap:
            return self._encoder.encode_documents(texts)
        return self._random(len(texts)), [self._random(1) for _ in texts]

    def encode_queries(self, texts: Any) -> Any:
        """As the encoder's."""
        return self._random(len(texts)) if self.cheap else self._encoder.encode_queries(texts)

    def encode_query_windows(self, texts: Any) -> Any:
        """As the encoder's."""
        return (self.encode_queries(texts), None) if self.cheap else self._encoder.encode_query_windows(texts)

    def token_offsets(self, text: str) -> Any:
        """As the encoder's."""
        return self._encoder.token_offsets(text)

    def cannot_read(self, texts: Any) -> Any:
        """As the encoder's."""
        return self._encoder.cannot_read(texts)

    def _random(self, count: int) -> Any:
        found = self._centres[self._draw.integers(1000, size=count)]
        found += 0.5 * self._draw.normal(size=found.shape)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Encodes at no cost inside."""
        self.cheap = True
        yield
        self.cheap = False


def sentence(draw: random.Random) -> str:
    """Words of a small vocabulary, with one that is rare."""
    return " ".join([*draw.choices(WORDS, k=11), f"r{draw.randrange(1_000_000)}"])


# -- many at once


def write(memory: AgentMemory, user: str, count: int, ids: list[str]) -> None:
    """What one user says, one message after another."""
    draw, scope = random.Random(user), memory.scope(user=user, session="s")
    for _ in range(count):
        ids.append(scope.remember(sentence(draw), speaker=user).id)


def threads(folder: Path, users: range, count: int) -> list[str]:
    """A thread for each user; the ids that were acknowledged."""
    encoder, ids = Filling(), []
    with (
        encoder.filling(),
        AgentMemory.open(folder, encoder=encoder, timeout=600.0) as memory,
        ThreadPoolExecutor(len(users)) as pool,
    ):
        for one in [pool.submit(write, memory, f"u{user}", count, ids) for user in users]:
            one.result()
    return ids


def at_once(folder: Path, users: int, count: int, processes: int) -> list[str]:
    """Users that write at once, in threads of some processes: how many, how long, and what is there then."""
    parts = [(folder, range(part, users, processes), count) for part in range(processes)]
    started = time.perf_counter()
    if processes == 1:
        found = [threads(*parts[0])]
    else:
        with get_context("spawn").Pool(processes) as pool:
            found = pool.starmap(threads, parts)
    took = time.perf_counter() - started
    ids = [one for part in found for one in part]
    with AgentMemory.open(folder, encoder=None) as memory:
        there = {one.id for one in memory.list(limit=None)}
        problems = memory.index.verify().problems
    lost = len(set(ids) - there)
    name = f"{users} users, {processes} process{'es' * (processes > 1)}"
    return [name, f"{len(ids)}", f"{lost}", f"{len(problems)}", f"{len(ids) / took:.0f}"]


# -- times


def timed(call: Callable[[int], Any], times: int) -> list[str]:
    """Median and worst of the wall times, and the median of the processor's, in ms."""
    wall, processor = [], []
    for number in range(times):
        a, b = time.perf_counter(), time.process_time()
        call(number)
        wall.append(1000 * (time.perf_counter() - a))
        processor.append(1000 * (time.process_time() - b))
    return [f"{np.median(wall):.1f}", f"{max(wall):.1f}", f"{np.median(processor):.1f}"]


def over_scopes(folder: Path, scopes: int, each: int, times: int) -> Iterator[list[str]]:
    """A recall over the scopes of all users of an app, alone and with writes between."""
    draw, encoder = random.Random(0), Filling()
    with AgentMemory.open(folder, encoder=encoder) as memory:
        app = memory.scope(app="x")
        with encoder.filling():
            for user in range(scopes):
                said = [{"text": sentence(draw), "speaker": "me"} for _ in range(each)]
                app.scope(user=f"u{user}", session="s").remember_many(said)
        queries = [sentence(draw) for _ in range(times + 1)]
        app.recall(queries[-1])

        def search(number: int) -> None:
            memory.index.search(queries[number], namespace=app.namespace, prefix=True, k=10)

        def written(number: int) -> None:
            app.scope(user=f"u{number}", session="s").remember(queries[number], speaker="me")
            app.recall(queries[number])

        yield [f"search below the prefix, {scopes} scopes of {each}", *timed(search, times)]
        yield ["recall over them", *timed(lambda number: app.recall(queries[number]), times)]
        yield ["remember in one, then recall over all", *timed(written, times)]


def long_chat(folder: Path, messages: int, times: int) -> Iterator[list[str]]:
    """Remember and recall of a user with so many messages."""
    draw, encoder = random.Random(1), Filling()
    with AgentMemory.open(folder, encoder=encoder) as memory:
        with encoder.filling():
            fill(memory, messages, draw)
        user = memory.scope(user="u")
        chat = user.scope(session="now")
        queries = [sentence(draw) for _ in range(2 * times + 1)]
        chat.remember("hello", speaker="me")
        user.recall("hello")
        name = f"at {messages:,} messages"
        yield [
            f"recall while the search image is made ({name})",
            *timed(lambda n: user.recall(queries[n]), 10),
        ]
        settled(memory, lambda: user.recall(queries[0]))
        yield ["encode a message", *timed(lambda n: encoder.encode_documents([queries[n]]), times)]
        yield ["remember a message", *timed(lambda n: chat.remember(queries[n], speaker="me"), times)]
        yield ["remember a fact", *timed(lambda n: user.remember(f"fact: {queries[-n]}"), times)]
        yield ["recall", *timed(lambda n: user.recall(queries[n]), times)]
        yield ["recall of a kind", *timed(lambda n: user.recall(queries[n], kind="fact"), times)]
        yield ["list the last 20", *timed(lambda _: user.list(), times)]
        yield ["forget one", *timed(lambda n: user.forget(user.list(limit=1)[0].id), min(times, 5))]


def settled(memory: AgentMemory, ask: Callable[[], Any]) -> None:
    """Asks until a search image is there to answer."""
    until = time.monotonic() + 120
    while not memory.index.stats().image_bytes:
        if time.monotonic() > until:
            raise TimeoutError("no search image was made in two minutes")
        ask()
        time.sleep(0.5)


def fill(memory: AgentMemory, messages: int, draw: random.Random) -> None:
    """Sessions of 100 messages, written as a bulk build; what is there is not written again."""
    user = memory.scope(user="u")
    there = user.stats()["items"]

    def documents() -> Iterator[Document]:
        for number in range(there, messages):
            given = Given(sentence(draw), speaker="me", session=f"s{number // 100}")
            yield writing._document(user._shared, user.namespace, given, given.told())

    IndexBuilder(memory.index, batch_size=1000, progress=False, namespace=user.namespace).build(documents())


def main() -> None:
    taken = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    taken.add_argument("--users", type=int, default=100)
    taken.add_argument("--each", type=int, default=20, help="messages of a user, and items of a scope")
    taken.add_argument("--scopes", type=int, default=1000)
    taken.add_argument("--messages", type=int, default=100_000)
    taken.add_argument("--times", type=int, default=30)
    taken.add_argument(
        "--only", nargs="+", choices=("writers", "scopes", "chat"), default=("writers", "scopes", "chat")
    )
    taken.add_argument("--folder", help="an empty one, or that of an earlier run, which is gone on with")
    options = taken.parse_args()
    print(f"On {machine()}.\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.folder or name)
        if "writers" in options.only:
            rows = [
                at_once(folder / f"w{many}", options.users, options.each, many) for many in (1, PROCESSES)
            ]
            print_table(["writing at once", "acknowledged", "lost", "problems", "a second"], rows)
            print()
        header = ["", "median ms", "worst ms", "processor ms"]
        if "scopes" in options.only:
            print_table(header, over_scopes(folder / "scopes", options.scopes, options.each, options.times))
            print()
        if "chat" in options.only:
            print_table(header, long_chat(folder / "chat", options.messages, options.times))


if __name__ == "__main__":
    main()
