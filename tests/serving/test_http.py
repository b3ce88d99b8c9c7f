from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mllm_plugin import AgentMemory, EncoderMismatchError, InvalidInputError, NotFoundError
from mllm_plugin.serving import add_token, serve
from mllm_plugin.serving.verbs import VERBS
from tests.helpers.serving_tools import ODD_NAMES, Client, served, served_by_command
from tests.helpers.toy import ToyEncoder


def test_tenants_never_see_each_other(client: Client, tokens) -> None:
    for name in ODD_NAMES:
        secret = f"the secret of {ODD_NAMES.index(name)}"
        assert client.call("remember", tokens[name], text=secret, id="same")[0] == 200, name
    for name in ODD_NAMES:
        expected = [f"the secret of {ODD_NAMES.index(name)}"]
        assert client.texts("list", tokens[name]) == expected
        assert client.texts("recall", tokens[name], query="the secret", k=50) == expected
    for asked in ({"user": "anna"}, {"app": "other"}):
        status, answer = client.call("recall", tokens["ann"], query="secret", scope=asked)
        assert (status, answer["error"]["type"]) == (403, "AccessError")
    assert client.call("list", tokens["s1"], scope={"user": "ann"})[0] == 403
    assert client.texts("list", tokens["ann"], scope={"session": "none"}) == []
    assert client.call("list", tokens["split"])[0] == 422
    assert client.call("forget", tokens["planner"], id="same")[0] == 404  # the user's, outside of the agent's
    assert client.call("forget", tokens["anna"], id="same")[0] == 200
    assert client.texts("list", tokens["ann"]) == ["the secret of 0"]
    assert len(client.texts("list", tokens["all"], limit=100)) >= len(ODD_NAMES) - 1


def test_errors_have_a_status_and_a_type(client: Client, tokens) -> None:
    ann = tokens["ann"]
    cases = [
        (401, "Unauthorized", client.call("list")),
        (401, "Unauthorized", client.call("list", "mllm_guessed")),
        (403, "AccessError", client.call("remember", tokens["reader"], text="x")),
        (404, "NotFoundError", client.call("forget", ann, id="nothing")),
        (404, "HTTPError", client.call("nothing", ann)),
        (413, "BodyTooLarge", client.call("remember", ann, text="x" * 20_000)),
        (422, "InvalidInputError", client.call("remember", ann, text="")),
        (422, "InvalidInputError", client.call("remember", ann, text="x", unknown=1)),
        (422, "InvalidInputError", client.call("forget", ann)),
        (422, "InvalidInputError", client.call("recall", ann, query="x", k=101)),
        (422, "InvalidInputError", client.get("/v1/list", ann, b"{not json")[:2]),
        (403, "AccessError", client.get("/metrics", ann)[:2]),
    ]
    for status, kind, found in cases:
        assert (found[0], found[1]["error"]["type"]) == (status, kind)
    client.call("remember", ann, text="first", id="seen")
    status, answer = client.call("update", ann, id="seen", text="second", if_version=7)
    assert (status, answer["error"]["type"]) == (409, "VersionConflictError")


def test_limits_are_of_the_token_and_count_over_workers(client: Client, tokens) -> None:
    assert client.call("recall", tokens["few"], query="x", k=3)[0] == 422
    statuses = [client.get("/v1/list", tokens["few"], {}) for _ in range(4)]
    refused = [headers for status, _, headers in statuses if status == 429]
    assert len(refused) == 4
    assert int(refused[-1]["retry-after"]) >= 1


def test_a_token_that_is_taken_out_is_refused_at_once(client: Client, folder, tokens) -> None:
    file = folder / "tokens.json"
    kept = file.read_bytes()
    late = add_token(file, "late", {"user": "late"})
    assert client.call("list", late)[0] == 200
    assert late.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(kept)
    assert client.call("list", late)[0] == 401


def test_page_metrics_and_health(client: Client, tokens, folder) -> None:
    paths = client.get("/openapi.json")[1]["paths"]
    assert {f"/v1/{name}" for name in VERBS} <= set(paths)
    assert client.get("/health")[1] == {"status": "ok"}
    assert client.get("/docs")[0] == 200
    client.call("list", tokens["ann"])
    counts = [client.get("/metrics", tokens["all"])[1] for _ in range(2)]
    assert all('mllm_calls_total{status="200",verb="list"}' in one for one in counts)
    assert "ann" not in counts[0]
    assert b"secret" not in (folder / "log").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
def test_a_killed_worker_loses_nothing_that_was_acknowledged(client: Client, tokens) -> None:
    token = tokens["all"]

    def remember(number: int) -> str | None:
        try:
            said = client.call("remember", token, text=f"fact {number}", scope={"user": "killed"})
            return f"fact {number}" if said[0] == 200 else None
        except (OSError, urllib.error.URLError):
            return None

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(remember, number) for number in range(60)]
        while sum(one.done() for one in running) < 10:
            time.sleep(0.01)
        os.kill(_workers(client)[0], signal.SIGKILL)
        acknowledged = {one.result() for one in running} - {None}
    assert len(acknowledged) >= 10
    kept = client.texts("list", token, scope={"user": "killed"}, limit=100)
    assert acknowledged <= set(kept)


def test_other_machines_are_not_served_without_tokens(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="an address of this machine"):
        serve(tmp_path / "memory", host="0.0.0.0")


@pytest.mark.parametrize("workers", [1, 2])
def test_it_ends_when_it_is_told_to(tmp_path, monkeypatch, workers) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with served(tmp_path, workers=workers) as client:
        assert client.call("remember", text="kept")[0] == 200
        client.process.terminate()
        assert client.process.wait(20) == 0
    assert not list((tmp_path / "temporary").iterdir())
    with AgentMemory.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        assert [one.text for one in memory.list()] == ["kept"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path) -> None:
    with served(tmp_path, workers=2) as client:
        workers = _workers(client)
        client.process.kill()
        end = time.monotonic() + 20
        while any(map(_runs, workers)) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(workers) == 2
        assert not any(map(_runs, workers))


def test_what_cannot_be_served_is_said_at_once(tmp_path) -> None:
    with pytest.raises(NotFoundError, match="no memory at"):
        serve(tmp_path / "none", read_only=True)
    with pytest.raises(NotFoundError, match="no tokens file"):
        serve(tmp_path / "memory", tokens=tmp_path / "none.json")
    AgentMemory.open(tmp_path / "memory", encoder=ToyEncoder()).close()
    with pytest.raises(EncoderMismatchError):
        serve(tmp_path / "memory", encoder=ToyEncoder(windows=False), port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidInputError, match="listen"):
        serve(tmp_path / "memory", encoder=ToyEncoder(), port=taken.getsockname()[1])


def test_the_command_with_the_real_encoder(tmp_path) -> None:
    with served_by_command(tmp_path) as client:
        client.call("remember", text="Ann lives in Oslo.", id="home", at="2024-01-01T00:00:00Z")
        client.call("remember", text="Ann is allergic to peanuts.", metadata={"topic": "food"})
        client.call("update", id="home", text="Ann lives in Rome.", at="2025-06-01T00:00:00Z")
        ask = {"query": "In which city does Ann live?", "k": 1}
        assert client.texts("recall", **ask) == ["Ann lives in Rome."]
        assert client.texts("recall", **ask, as_of="2024-07-01T00:00:00Z") == ["Ann lives in Oslo."]
        assert client.texts("history", id="home") == ["Ann lives in Oslo.", "Ann lives in Rome."]
        cake = [{"role": "user", "content": "May I bake Ann a cake with nuts?"}]
        assert "peanuts" in client.call("context", messages=cake, k=1)[1]["text"]
        assert client.texts("recall", query="nuts", filter={"topic": "food"}) == [
            "Ann is allergic to peanuts."
        ]
        assert client.call("forget", filter={"topic": "food"})[1]["erased"]
        assert client.texts("list") == ["Ann lives in Rome."]
        assert client.call("get", id="home")[1]["version"] == 2


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _workers(client: Client) -> list[int]:
    """Process ids of the workers; multiprocessing's own helper is none."""
    parent = client.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
