"""What stands around a call, each part by itself: gate, tokens, rate, hosts, counts, applications."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

import pytest

from mllm_plugin import InvalidInputError, NotFoundError
from mllm_plugin.serving import http_server, rate
from mllm_plugin.serving.access import Access
from mllm_plugin.serving.ending import end_with_parent, ended_cleanly
from mllm_plugin.serving.gate import Gate
from mllm_plugin.serving.hosts import check_host, is_own
from mllm_plugin.serving.http_app import Serving
from mllm_plugin.serving.mcp_server import server_of
from mllm_plugin.serving.metrics import Metrics
from mllm_plugin.serving.opening import Source
from mllm_plugin.serving.rate import Rate
from mllm_plugin.serving.tokens import Tokens, add_token
from mllm_plugin.serving.verbs import VERBS
from tests.helpers.toy import ToyEncoder

# -- hosts


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.4", False),
        ("localhost.evil.com", False),
        ("", False),
    ],
)
def test_only_loopback_is_this_machine(host, own):
    assert is_own(host) is own
    if not own:
        with pytest.raises(InvalidInputError, match="address of this machine alone"):
            check_host(host)


# -- rate


def test_calls_come_evenly_after_a_burst(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(rate.time, "time", lambda: now[0])
    calls = Rate(tmp_path)
    try:
        assert [calls.wait("ann", 60) for _ in range(11)] == [0.0] * 10 + [1.0]
        assert calls.wait("bob", 60) == 0.0  # a bucket for each
        now[0] += 1.0
        assert calls.wait("ann", 60) == 0.0
        assert calls.wait("ann", 60) == 1.0
        now[0] += 3600.0
        assert [calls.wait("ann", 60) for _ in range(11)] == [0.0] * 10 + [1.0]
        assert calls.wait("rare", 1) == 0.0
        assert calls.wait("rare", 1) == 60.0
    finally:
        calls.close()


# -- tokens


def test_a_token_is_known_by_its_hash_and_bounded_by_the_server(tmp_path):
    file = tmp_path / "tokens.json"
    secret = add_token(file, "ann", {"user": "ann"}, most=50)
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    tokens = Tokens(file)
    known = tokens.of(secret)
    assert known is not None
    access = known.access(Access(read_only=True, most=20))
    assert (access.scope, access.read_only, access.most) == ({"user": "ann"}, True, 20)
    assert tokens.of(f"{secret}x") is None
    assert tokens.of("\ud800") is None


def test_a_file_is_read_again_when_it_changes(tmp_path):
    file = tmp_path / "tokens.json"
    first = add_token(file, "ann", {})
    tokens = Tokens(file)
    second = add_token(file, "bob", {})
    assert tokens.of(second) is not None
    entries = json.loads(file.read_text())
    file.write_text(json.dumps({"tokens": entries["tokens"][1:]}))
    assert tokens.of(first) is None
    file.unlink()
    with pytest.raises(NotFoundError):
        tokens.of(second)


@pytest.mark.parametrize("said", ["", "{}", '{"tokens": [{"name": "a"}]}', '{"tokens": [], "more": 1}'])
def test_what_is_no_tokens_file_is_refused(tmp_path, said):
    (tmp_path / "tokens.json").write_text(said)
    with pytest.raises(InvalidInputError, match="no tokens file"):
        Tokens(tmp_path / "tokens.json")


# -- gate


@pytest.fixture
def gate(tmp_path):
    """What comes of requests: a status, and what the application behind the gate saw."""
    seen, calls = [], Rate(tmp_path / "rate")
    file = tmp_path / "tokens.json"
    secret = add_token(file, "ann", {"user": "ann"}, rate=6)

    async def app(scope, receive, send):
        seen.append((scope["state"]["access"], (await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def call(*, tokens=True, path="/v1/recall", body=b"{}", **headers):
        said = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "headers": said}
        parts = [{"body": body[:1], "more_body": True}, {"body": body[1:]}]
        statuses = []

        async def receive():
            return parts.pop(0)

        async def send(message):
            statuses.append(message.get("status"))

        known = Tokens(file) if tokens else None
        guard = Gate(
            app, tokens=known, everybody=Access(), rate=calls, a_minute=None, most_bytes=100, metrics=metrics
        )
        await guard(scope, receive, send)
        return statuses[0]

    metrics = Metrics()
    call.secret, call.seen, call.metrics = f"Bearer {secret}", seen, metrics
    yield call
    calls.close()


async def test_a_caller_gets_the_access_of_its_token(gate):
    assert await gate(authorization=gate.secret, body=b'{"query": "x"}') == 200
    ((access, body),) = gate.seen
    assert access.scope == {"user": "ann"}
    assert body == b'{"query": "x"}'


@pytest.mark.parametrize("said", [{}, {"authorization": "Bearer "}, {"authorization": "Basic abc"}])
async def test_nobody_else_passes(gate, said):
    assert await gate(**said) == 401
    assert await gate(authorization="Bearer mllm_other") == 401
    assert gate.seen == []


async def test_bodies_are_bounded_whatever_their_header_says(gate):
    assert await gate(tokens=False, body=bytes(101)) == 413
    assert await gate(tokens=False, **{"content-length": "101"}) == 413
    assert await gate(tokens=False, **{"content-length": "-1"}) == 413
    assert gate.seen == []


async def test_calls_are_limited_and_counted(gate):
    statuses = [await gate(authorization=gate.secret) for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert b'mllm_calls_total{status="429",verb="recall"} 2.0' in gate.metrics.shown()
    assert await gate(authorization=gate.secret, path="/v1/secret-of-ann") == 429
    assert b"secret-of-ann" not in gate.metrics.shown()


async def test_metrics_are_for_whoever_sees_all(gate):
    assert await gate(authorization=gate.secret, path="/metrics") == 403
    assert await gate(tokens=False, path="/metrics") == 200


@pytest.mark.parametrize("said", [{"host": "evil.com"}, {"origin": "http://evil.com"}, {"host": "[::1"}])
async def test_without_tokens_only_this_machine_is_served(gate, said):
    assert await gate(tokens=False, **said) == 403
    assert await gate(tokens=False, host="localhost:80", origin="http://127.0.0.1") == 200


# -- servers


def test_an_application_has_a_path_for_every_verb(tmp_path):
    app = Serving(Source(tmp_path / "memory", ToyEncoder()), None, tmp_path)()
    paths = app.openapi()["paths"]
    assert {f"/v1/{name}" for name in VERBS} <= set(paths)
    assert {"/health", "/ready", "/metrics"} <= set(paths)


def test_a_taken_port_is_said_at_once():
    nothing = Source(Path("none"), None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InvalidInputError, match="cannot listen on 127"):
            http_server.run(
                Source(Path("none"), None),
                host="127.0.0.1",
                port=taken.getsockname()[1],
                workers=1,
                tokens=None,
            )
        with pytest.raises(InvalidInputError, match="this machine alone"):
            http_server.run(nothing, host="0.0.0.0", port=0, workers=1, tokens=None)


async def test_tools_are_those_that_the_access_allows():
    from mcp import types

    async def tools(access):
        server = server_of(None, access, "1")
        found = await server.request_handlers[types.ListToolsRequest](types.ListToolsRequest())
        return {tool.name for tool in found.root.tools}

    reading = await tools(Access(read_only=True))
    assert reading == {name for name, verb in VERBS.items() if verb.tool and not verb.writes}
    assert reading < await tools(Access())


def test_a_signal_ends_the_server_and_not_the_process():
    assert threading.current_thread() is threading.main_thread()  # no other may handle signals
    before = signal.getsignal(signal.SIGTERM)
    with ended_cleanly():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    end_with_parent()  # this process has none that it would end with
