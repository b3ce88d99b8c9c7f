"""Servers as real processes, with the toy encoder or the real one, and who calls them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_plugin.agent import AgentMemory
from mllm_plugin.serving.opening import Source
from tests.helpers.toy import ToyEncoder

ROOT = Path(__file__).parents[2]
ODD_NAMES = ("ann", "anna", "ann/x", "ann:x", "ánn", "a\u0301nn", "ann\u200b", "user:ann", "*", "..")
HTTP = """
import sys, json
from mllm_plugin.serving import serve
from tests.helpers.toy import ToyEncoder
if __name__ == "__main__":
    serve(sys.argv[1], encoder=ToyEncoder(), **json.loads(sys.argv[2]))
"""
MCP = """
import sys, json
from mllm_plugin.serving.access import Access
from mllm_plugin.serving.mcp_server import run_http, run_stdio
from mllm_plugin.serving.opening import Opening
from mllm_plugin.serving.standard_output import standard_output_alone
from tests.helpers.serving_tools import open_noisily
opening = Opening(lambda: open_noisily(sys.argv[1]))
access = Access(**json.loads(sys.argv[2]))
if len(sys.argv) > 3:
    run_http(opening, access, "0", "127.0.0.1", int(sys.argv[3]))
else:
    output = standard_output_alone()
    opening.start()
    run_stdio(opening, access, "0", output)
"""


def open_noisily(path: str) -> tuple[AgentMemory, ToyEncoder]:
    """Prints, as a library might, and takes its time."""
    print("loading ...", flush=True)
    os.write(1, b"from below\n")
    time.sleep(1.0)
    encoder = ToyEncoder()
    return Source(Path(path), encoder).open()[0], encoder


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

    def get(self, path: str, token: str | None = None, body: Any = None, **more: str) -> tuple[int, Any, Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **more}
        if token:
            headers["authorization"] = f"Bearer {token}"
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
    """A server with workers of its own and the toy encoder, until the end of the block."""
    script, port = tmp_path / "serving.py", free_port()
    script.write_text(HTTP)
    how = json.dumps({"port": port, "workers": 1, **options})
    with running([sys.executable, str(script), str(tmp_path / "memory"), how], port, tmp_path / "log") as one:
        yield one


@contextmanager
def served_by_command(tmp_path: Path, *options: str) -> Iterator[Client]:
    """`mllm serve` as users run it, with the real encoder, until the end of the block."""
    port = free_port()
    where = ["--memory", str(tmp_path / "memory"), "--port", str(port)]
    command = [sys.executable, "-m", "mllm_plugin", "serve", *where, *options]
    with running(command, port, tmp_path / "log") as client:
        yield client


@contextmanager
def running(command: list[str], port: int, log_file: Path) -> Iterator[Client]:
    with open(log_file, "wb") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
    client = Client(port, process)
    try:
        wait_ready(client)
        yield client
    finally:
        process.terminate()
        process.wait(30)


def wait_ready(client: Client, seconds: float = 120) -> None:
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
