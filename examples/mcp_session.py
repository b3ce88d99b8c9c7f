"""A session over the Model Context Protocol: an agent's client starts `mllm mcp` and uses its tools.

Runs offline: `python examples/mcp_session.py` (needs `pip install '.[mcp,local]'`).
"""

import asyncio
import json
import os
import sys
from tempfile import TemporaryDirectory
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def use(session: ClientSession, tool: str, **arguments: Any) -> dict[str, Any]:
    """Calls a tool, as an agent would, and prints the call."""
    answer = await session.call_tool(tool, arguments)
    text = getattr(answer.content[0], "text", "")
    print(f"{tool}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})")
    if answer.isError:
        print(f"  refused: {text}")
        return {}
    return json.loads(text)


async def talk(session: ClientSession) -> None:
    """Remembers, recalls, changes, hides and forgets, all within the scope of one user."""
    await use(session, "remember", text="Ann lives in Oslo.", id="home", at="2024-01-01T00:00:00Z")
    await use(session, "remember", text="Ann is allergic to peanuts.", kind="preference")
    await use(session, "update", id="home", text="Ann lives in Rome.", at="2025-06-01T00:00:00Z")

    found = await use(session, "recall", query="Where does Ann live?", k=1)
    print("  now:", found["items"][0]["text"])
    found = await use(session, "recall", query="Where does Ann live?", k=1, as_of="2024-07-01T00:00:00Z")
    print("  then:", found["items"][0]["text"])

    await use(session, "mask", filter={"item.kind": "preference"}, label="guests")
    print("  left:", [item["text"] for item in (await use(session, "list"))["items"]])
    await use(session, "unmask", label="guests")

    await use(session, "recall", query="Where does Bob live?", scope={"user": "bob"})
    print("  erased:", (await use(session, "forget", id="home"))["erased"])
    print("  left:", [item["text"] for item in (await use(session, "list"))["items"]])


async def main() -> None:
    """Starts the server as a client does, with a memory of its own."""
    with TemporaryDirectory() as folder:
        arguments = ["-m", "mllm_plugin", "mcp", "--memory", folder, "--scope", "user=ann"]
        server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            print("tools:", ", ".join(tool.name for tool in (await session.list_tools()).tools))
            await talk(session)


if __name__ == "__main__":
    asyncio.run(main())
