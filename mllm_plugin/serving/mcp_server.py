"""The verbs as tools of the Model Context Protocol, over standard input and output or HTTP."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import TextIOWrapper
from typing import Any

import anyio
import anyio.to_thread
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from mllm_plugin.serving.access import Access
from mllm_plugin.serving.answers import brief, fitted
from mllm_plugin.serving.ending import ended_cleanly
from mllm_plugin.serving.opening import Opening
from mllm_plugin.serving.problems import problem_of
from mllm_plugin.serving.verbs import VERBS, Verb, schema_of

ROOM = 12_000  # characters of an answer, about 3,000 tokens
_INSTRUCTIONS = (
    "A lasting memory. Recall before you answer from earlier conversations; remember what will matter later, "
    "one fact at a time; forget what the user wants forgotten."
)


def server_of(opening: Opening, access: Access, version: str) -> Server:
    """A server that offers what an access allows."""
    server: Server = Server("mllm", version=version, instructions=_INSTRUCTIONS)
    offered = {verb.name: verb for verb in VERBS.values() if verb.tool and access.allows(verb)}

    @server.list_tools()
    async def tools() -> list[types.Tool]:
        return [_tool(verb) for verb in offered.values()]

    @server.call_tool(validate_input=False)
    async def call(name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        if name not in offered:
            return _said(f"no tool {name!r} here; there are {', '.join(offered)}", wrong=True)
        return await anyio.to_thread.run_sync(_result, opening, access, offered[name], arguments)

    return server


def run_stdio(opening: Opening, access: Access, version: str, output: int) -> None:
    """Serves the process that started this one, until that closes its end.

    Args:
        opening: The memory; its opening has begun.
        access: What the process may do.
        version: Of the server.
        output: Descriptor to answer on.
    """
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _end)
    anyio.run(_serve_stdio, server_of(opening, access, version), output)
    opening.close()


def run_http(opening: Opening, access: Access, version: str, host: str, port: int) -> None:
    """Serves at `http://HOST:PORT/mcp` until interrupted; other hosts and origins are refused."""
    import uvicorn
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.applications import Starlette
    from starlette.routing import Route

    hosts = [f"{one}:{port}" for one in (_bracketed(host), "127.0.0.1", "localhost", "[::1]")]
    security = TransportSecuritySettings(
        allowed_hosts=hosts, allowed_origins=[f"http://{one}" for one in hosts]
    )
    manager = StreamableHTTPSessionManager(
        server_of(opening, access, version), stateless=True, json_response=True, security_settings=security
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        opening.start()
        async with manager.run():
            yield
        opening.close()

    class Endpoint:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await manager.handle_request(scope, receive, send)

    app = Starlette(routes=[Route("/mcp", Endpoint())], lifespan=lifespan)
    how = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 5}
    with ended_cleanly():
        uvicorn.run(app, host=host, port=port, server_header=False, **how)


def _tool(verb: Verb) -> types.Tool:
    hints = types.ToolAnnotations(
        title=verb.title,
        readOnlyHint=not verb.writes,
        destructiveHint=verb.destructive,
        idempotentHint=verb.idempotent,
        openWorldHint=False,
    )
    return types.Tool(
        name=verb.name, description=verb.description, inputSchema=schema_of(verb), annotations=hints
    )


def _result(opening: Opening, access: Access, verb: Verb, arguments: dict[str, Any]) -> types.CallToolResult:
    """What a call gave, as text; an error too."""
    try:
        answer = access.call(opening, verb, verb.arguments.model_validate(arguments))
        return _said(fitted(brief(answer), ROOM))
    except Exception as error:
        problem = problem_of(error)
        return _said(f"{problem.type}: {problem.message}", wrong=True)


def _said(text: str, wrong: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=wrong)


async def _serve_stdio(server: Server, output: int) -> None:
    written = anyio.wrap_file(TextIOWrapper(os.fdopen(output, "wb"), encoding="utf-8"))
    async with stdio_server(stdout=written) as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _end(number: int, frame: Any) -> None:
    """Ends at once: the thread that reads stdin cannot be woken, and what was written is durable."""
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(128 + number)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
