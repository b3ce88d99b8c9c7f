from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client

from mllm_plugin import AgentMemory, InvalidInputError, NotFoundError
from mllm_plugin.serving import serve_mcp
from mllm_plugin.serving.answers import fitted
from mllm_plugin.serving.standard_output import standard_output_alone
from mllm_plugin.serving.verbs import VERBS, schema_of
from tests.helpers.serving_tools import MCP, environment, free_port
from tests.helpers.toy import ToyEncoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own names of its clients


@asynccontextmanager
async def session_of(tmp_path, **access):
    script = tmp_path / "tools.py"
    script.write_text(MCP)
    arguments = [str(script), str(tmp_path / "memory"), json.dumps(access)]
    async with session_with(tmp_path, arguments) as session:
        yield session


@asynccontextmanager
async def session_with(tmp_path, arguments):
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environment())
    with open(tmp_path / "errors", "w") as errors:
        async with (
            stdio_client(parameters, errlog=errors) as (read, write),
            ClientSession(read, write) as one,
        ):
            await one.initialize()
            yield one


async def said(session, tool: str, **arguments) -> object:
    answer = await session.call_tool(tool, arguments)
    assert not answer.isError, answer
    return json.loads(answer.content[0].text)


async def wrong(session, tool: str, **arguments) -> str:
    answer = await session.call_tool(tool, arguments)
    assert answer.isError
    return answer.content[0].text


async def test_tools_over_standard_input_and_output(tmp_path) -> None:
    async with session_of(tmp_path, scope={"user": "ann"}) as session:
        started = time.monotonic()
        tools = {one.name: one for one in (await session.list_tools()).tools}
        assert time.monotonic() - started < 0.9  # the memory takes a second to open
        assert set(tools) == {name for name, verb in VERBS.items() if verb.tool}
        hints = {name: one.annotations for name, one in tools.items()}
        assert hints["recall"].readOnlyHint
        assert hints["forget"].destructiveHint
        assert not hints["mask"].destructiveHint

        await said(session, "remember", text="The lamp is lit at dusk.", id="lamp")
        found = await said(session, "recall", query="When is the lamp lit?")
        assert [one["id"] for one in found["items"]] == ["lamp"]
        await said(session, "remember", text="Herons eat fish.", id="heron")
        await said(session, "mask", id="lamp", label="later")
        assert [one["id"] for one in (await said(session, "list"))["items"]] == ["heron"]
        assert await said(session, "unmask", label="later") == {"ids": ["lamp"]}
        await said(session, "update", id="lamp", text="The lamp is lit at noon.", if_version=1)
        assert (await said(session, "list"))["items"][0]["text"] == "The lamp is lit at noon."
        assert [one["version"] for one in (await said(session, "list"))["items"][:1]] == [2]
        await said(session, "forget", id="heron")
        (part,) = (await said(session, "overview"))["items"]
        assert (part["size"], part["faces"]) == (1, ["The lamp is lit at noon."])
        report = await said(session, "forget", id="lamp")
        assert (report["ids"], report["erased"], len(report["derived"])) == (["lamp"], True, 1)
        assert (await said(session, "overview"))["items"] == []

        assert "AccessError" in await wrong(session, "recall", query="x", scope={"user": "bob"})
        assert "AccessError" in await wrong(session, "recall", query="x", scope={"app": "wider"})
        assert "query" in await wrong(session, "recall")
        assert "NotFoundError" in await wrong(session, "forget", id="lamp")
        assert "no tool" in await wrong(session, "erase_all")
    errors = (tmp_path / "errors").read_text()
    assert "loading" in errors
    assert "from below" in errors


async def test_who_only_reads_is_offered_no_writing(tmp_path) -> None:
    async with session_of(tmp_path, read_only=True) as session:
        assert {one.name for one in (await session.list_tools()).tools} == {"recall", "list", "overview"}
        assert "there are recall, list, overview" in await wrong(session, "remember", text="x")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at the server through /proc")
async def test_the_command_with_the_real_encoder_and_without_torch(tmp_path) -> None:
    where = ["-m", "mllm_plugin", "mcp", "--memory", str(tmp_path / "memory"), "--scope", "user=ann"]
    async with session_with(tmp_path, where) as session:
        await said(session, "remember", text="Ann lives in Oslo.", id="home")
        await said(session, "remember", text="Ann is allergic to peanuts.")
        found = await said(session, "recall", query="In which city does Ann live?", k=1)
        assert [one["id"] for one in found["items"]] == ["home"]
        assert found["items"][0]["scope"] == {"user": "ann"}
        assert not loads_torch()
        assert "100000 characters" in await wrong(session, "remember", text="x" * 1_000_000)
        assert "empty" in await wrong(session, "remember", text="  ")
        assert "NotFoundError" in await wrong(session, "update", id="none", text="x")
        assert "InvalidInputError" in await wrong(session, "forget")
        long = "The lighthouse keeper notes the weather every evening. " * 60
        await said(session, "remember", text=long, id="long")
        assert loads_torch()
    async with session_with(tmp_path, [*where, "--read-only"]) as session:
        found = await said(session, "recall", query="Who notes the weather?", k=1)
        assert found["items"][0]["id"] == "long"


def loads_torch() -> bool:
    """Whether a server that this process started has loaded torch."""
    threads = Path("/proc/self/task").iterdir()
    children = [child for one in threads for child in (one / "children").read_text().split()]
    return any("libtorch" in Path(f"/proc/{child}/maps").read_text() for child in children)


async def test_what_cannot_be_opened_is_said_by_every_call(tmp_path) -> None:
    AgentMemory.open(tmp_path / "memory", encoder=ToyEncoder(dim=8)).close()
    async with session_of(tmp_path) as session:
        for _ in range(2):
            assert "EncoderMismatchError" in await wrong(session, "recall", query="x")


async def test_tools_over_http(tmp_path) -> None:
    script, port = tmp_path / "tools.py", free_port()
    script.write_text(MCP)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "memory"), "{}", str(port)],
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        async with _connected(url) as first, _connected(url) as second:
            await said(first, "remember", text="Herons eat fish.", id="heron")
            assert (await said(second, "recall", query="herons"))["items"][0]["id"] == "heron"
            assert "NotFoundError" in await wrong(second, "update", id="none", text="x")
        headers = {"host": "evil.example", "content-type": "application/json"}
        request = urllib.request.Request(url, b"{}", headers)
        with pytest.raises(urllib.error.HTTPError, match="421") as refused:
            urllib.request.urlopen(request, timeout=5)
        refused.value.close()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Traceback" not in errors


@asynccontextmanager
async def _connected(url: str):
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError as error:
            if getattr(error, "code", None) is not None:
                error.close()
                break
            time.sleep(0.2)
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        yield session


def test_standard_output_is_for_its_caller_alone(capfd, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    before = os.dup(1)
    own = standard_output_alone()
    try:
        print("aside", flush=True)
        os.write(1, b"from below")
        os.write(own, b"an answer")
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(own)
    printed = capfd.readouterr()
    assert printed.out == "an answer"
    assert printed.err == "aside\nfrom below"


def test_what_is_told_of_the_tools_is_short_and_plain() -> None:
    schemas = json.dumps([schema_of(verb) for verb in VERBS.values() if verb.tool])
    assert len(schemas) < 10_000
    assert "$ref" not in schemas
    assert "null" not in schemas
    assert set(schema_of(VERBS["recall"])["properties"]) == set(VERBS["recall"].arguments.model_fields)


def test_answers_are_cut_and_say_so() -> None:
    items = [{"id": str(number), "text": "word " * 500} for number in range(50)]
    cut = json.loads(fitted({"items": items}, 5000))
    assert len(json.dumps(cut)) < 6000
    assert cut["left_out"] == 50 - len(cut["items"])
    assert cut["items"][0]["truncated"] is True
    cut = json.loads(fitted({"ids": [str(number) for number in range(9000)], "erased": True}, 5000))
    assert len(json.dumps(cut)) < 6000
    assert (cut["left_out"], cut["erased"]) == (9000 - len(cut["ids"]), True)


def test_other_machines_are_not_served(tmp_path) -> None:
    with pytest.raises(NotFoundError, match="no memory at"):
        serve_mcp(tmp_path / "memory", read_only=True)
    with pytest.raises(InvalidInputError, match="an address of this machine"):
        serve_mcp(tmp_path / "memory", http=("0.0.0.0", 8766))
