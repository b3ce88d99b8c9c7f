"""The surface of an agent memory over a plain one, and servers as real processes with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from mllm_plugin import Document, MemoryIndex, NotFoundError
from tests.helpers.toy import ToyEncoder

ROOT = Path(__file__).parents[2]
KEYS = ("app", "user", "agent", "session")
HTTP = """
from pathlib import Path
from mllm_plugin.serving.http_server import run
from mllm_plugin.serving.opening import Source
from tests.helpers.serving_tools import open_toy
from tests.helpers.toy import ToyEncoder
import sys, json
if __name__ == "__main__":
    path, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    tokens = options.pop("tokens", None)
    tokens = None if tokens is None else Path(tokens)
    run(Source(path, ToyEncoder(), opener=open_toy), host="127.0.0.1", tokens=tokens, **options)
"""
MCP = """
import sys, json
from pathlib import Path
from mllm_plugin.serving.access import Access
from mllm_plugin.serving.mcp_server import run_http, run_stdio
from mllm_plugin.serving.opening import Opening, Source
from tests.helpers.serving_tools import open_noisily
from tests.helpers.toy import ToyEncoder
opening = Opening(Source(Path(sys.argv[1]), ToyEncoder(), opener=open_noisily).open)
access = Access(**json.loads(sys.argv[2]))
if len(sys.argv) > 3:
    run_http(opening, access, "0", "127.0.0.1", int(sys.argv[3]))
else:
    run_stdio(opening, access, "0")
"""


@dataclass(frozen=True)
class Item:
    id: str
    text: str
    version: int = 1
    relevance: float | None = None
    created_at: datetime | None = None
    scope: dict[str, str] = field(default_factory=dict)


class ToyAgentMemory:
    """What the servers ask of `AgentMemory`, with `MemoryIndex` below."""

    def __init__(self, index: MemoryIndex) -> None:
        self.index = index

    def scope(self, **names: str) -> ToyScope:
        return ToyScope(self.index, tuple(f"{key}:{names[key]}" for key in KEYS if key in names))

    def close(self) -> None:
        self.index.close()


class ToyScope:
    def __init__(self, index: MemoryIndex, namespace: tuple[str, ...]) -> None:
        self.index, self.namespace = index, namespace

    def remember(self, text: str, id: str | None = None, **_: Any) -> Item:
        name = id or uuid4().hex
        self.index.add([Document(text, id=name)], namespace=self.namespace)
        return Item(name, text)

    def recall(
        self, query: str, k: int = 5, within: Sequence[str] | None = None, budget_tokens: int = 0
    ) -> list[Item]:
        found = self.index.search(query, k=k, namespace=self.namespace, prefix=True)
        return [Item(one.document_id, one.text, relevance=one.relevance) for one in found]

    def get(self, id: str) -> Item | None:
        """Falls through to the outer scopes, as the real one does."""
        for end in range(len(self.namespace), -1, -1):
            place = self.namespace[:end]
            if self.index.get([id], namespace=place):
                return Item(id, "", scope=dict(part.split(":", 1) for part in place))
        return None

    def list(self, limit: int = 20, **options: Any) -> list[Item]:
        found = self.index.documents(namespace=self.namespace, prefix=True, limit=limit)
        return [Item(one.id, one.text, one.version, None, one.created_at) for one in found]

    def update(self, id: str, **changes: Any) -> Any:
        return self.index.update(id, namespace=self.namespace, **changes)

    def forget(self, id: str | None = None, filter: Any = None, everything: bool = False) -> Any:
        found = self.get(id) if id else None
        place = tuple(f"{key}:{one}" for key, one in found.scope.items()) if found else self.namespace
        report = self.index.remove([id] if id else None, namespace=place, filter=filter)
        if report.missing:
            raise NotFoundError(f"no memory {id!r}")
        return report

    def hide(self, id: str | None = None, filter: Any = None, label: str = "") -> Any:
        return self.index.mask([id] if id else None, filter=filter, label=label, namespace=self.namespace)

    def restore(self, id: str | None = None, filter: Any = None, label: str | None = None) -> Any:
        return self.index.unmask([id] if id else None, filter=filter, label=label, namespace=self.namespace)

    def overview(self, topic: str | None = None) -> list[Item]:
        return self.list()


def open_toy(path: Path, encoder: ToyEncoder, read_only: bool) -> ToyAgentMemory:
    return ToyAgentMemory(MemoryIndex.open(path, encoder=encoder, read_only=read_only))


def open_noisily(path: Path, encoder: ToyEncoder, read_only: bool) -> ToyAgentMemory:
    """Prints, as a library might, and takes its time."""
    print("loading ...", flush=True)
    os.write(1, b"from below\n")
    time.sleep(1.0)
    return open_toy(path, encoder, read_only)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'integrations'}", "OMP_NUM_THREADS": "1"}


@dataclass
class Client:
    """Calls a server over a real socket."""

    port: int
    process: subprocess.Popen[bytes]

    def get(self, path: str, token: str | None = None, body: Any = None) -> tuple[int, Any, Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {token}"} if token else {}
        )
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, _read(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error), error.headers

    def call(self, verb: str, token: str | None = None, /, **arguments: Any) -> tuple[int, Any]:
        return self.get(f"/v1/{verb}", token, arguments)[:2]

    def texts(self, verb: str, token: str | None = None, /, **arguments: Any) -> list[str]:
        status, answer = self.call(verb, token, **arguments)
        assert status == 200, answer
        return sorted(one["text"] for one in answer["items"])


def _read(answer: Any) -> Any:
    said = answer.read()
    return json.loads(said) if "json" in answer.headers["content-type"] else said.decode()


@contextmanager
def served(tmp_path: Path, **options: Any) -> Iterator[Client]:
    """A server with workers of its own, until the end of the block."""
    script, port = tmp_path / "serving.py", free_port()
    script.write_text(HTTP)
    how = json.dumps({"port": port, "workers": 1, **options})
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "memory"), how],
            env=environment(),
            stdout=log,
            stderr=log,
        )
    client = Client(port, process)
    try:
        wait_ready(client)
        yield client
    finally:
        process.terminate()
        process.wait(30)


def wait_ready(client: Client, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if client.get("/ready")[0] == 200:
                return
        except OSError:
            pass
        assert client.process.poll() is None, "the server ended"
        time.sleep(0.1)
    raise AssertionError("the server is not ready")
