"""`mllm mcp`, `mllm serve`, `mllm token`: the memory for agents in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mllm_plugin.cli.output import emit, note
from mllm_plugin.cli.settings import Settings, UserPath, encoder_option, number_option, shared_options

_KEYS = ("app", "user", "agent", "session")


class ScopeType(click.ParamType):
    """One name of a scope, as KEY=NAME."""

    name = "scope"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Returns key and name, or fails."""
        if isinstance(value, tuple):
            return value
        key, _, name = value.partition("=")
        if key not in _KEYS or not name:
            self.fail(f"expected KEY=NAME with KEY one of {', '.join(_KEYS)}, got {value!r}", param, ctx)
        return key, name


class AddressType(click.ParamType):
    """HOST:PORT."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Returns host and port, or fails."""
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"expected HOST:PORT, such as 127.0.0.1:8766, got {value!r}", param, ctx)
        return host.strip("[]"), int(port)


_scope_option = click.option(
    "--scope",
    "scope",
    type=ScopeType(),
    multiple=True,
    metavar="KEY=NAME",
    help="Bind to an app, user, agent or session, e.g. user=ann; may be given for each.",
)
_read_only_option = click.option("--read-only", is_flag=True, help="Never write.")


@click.command()
@_scope_option
@_read_only_option
@click.option(
    "--http",
    type=AddressType(),
    metavar="HOST:PORT",
    help="Serve http://HOST:PORT/mcp of this machine, instead of standard input and output.",
)
@encoder_option
@shared_options
def mcp(
    settings: Settings, scope: tuple[tuple[str, str], ...], read_only: bool, http: tuple[str, int] | None
) -> None:
    """Serve the memory as tools of the Model Context Protocol: Claude Desktop, Cursor and others.

    The client starts this command and speaks with it over standard input and output. A tool call can narrow
    --scope but never leave it. docs/mcp.md has the client's settings.
    """
    from mllm_plugin.serving import serve_mcp

    if http is not None:
        note(f"serving http://{_bracketed(http[0])}:{http[1]}/mcp; Ctrl-C ends")
    serve_mcp(
        settings.memory, encoder=settings.encoder, scope=_scope_of(scope), read_only=read_only, http=http
    )


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address; others than this machine's need --tokens.",
)
@number_option("--port", 8765, "Port to listen on.", least=0)
@number_option("--workers", 1, "Processes.")
@click.option(
    "--tokens", type=UserPath(), metavar="FILE", help="Tokens that `mllm token` made; refuse everybody else."
)
@_read_only_option
@number_option("--max-bytes", 1_000_000, "Largest body of a call.")
@number_option("--max-k", 100, "Most results of a call.")
@number_option("--rate", None, "Most calls a minute of each token; no limit when left out.")
@encoder_option
@shared_options
def serve(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    tokens: Path | None,
    read_only: bool,
    max_bytes: int,
    max_k: int,
    rate: int | None,
) -> None:
    """Serve the memory over HTTP: POST /v1/remember, /v1/recall, /v1/forget and others; /docs shows them.

    Without --tokens everybody on this machine may do everything, and no other machine is served. SIGTERM and
    Ctrl-C end it, once the running calls are done.
    """
    from mllm_plugin.serving import serve as serve_http

    note(f"serving http://{_bracketed(host)}:{port} (docs at /docs); Ctrl-C ends")
    limits = {"most_bytes": max_bytes, "most": max_k, "a_minute": rate}
    where = {"host": host, "port": port, "workers": workers, "tokens": tokens, "read_only": read_only}
    serve_http(settings.memory, encoder=settings.encoder, **where, **limits)


@click.command()
@click.argument("name")
@click.option("--tokens", type=UserPath(), metavar="FILE", required=True, help="File to add its hash to.")
@_scope_option
@click.option("--all", "everything", is_flag=True, help="Not bound to a scope: the whole memory.")
@_read_only_option
@number_option("--max-k", None, "Most results of a call.")
@number_option("--rate", None, "Most calls a minute.")
@shared_options
def token(
    settings: Settings,
    name: str,
    tokens: Path,
    scope: tuple[tuple[str, str], ...],
    everything: bool,
    read_only: bool,
    max_k: int | None,
    rate: int | None,
) -> None:
    """Make a token for whoever is called NAME and print it, this once; the file keeps its hash.

    A running server knows it at once. Take its entry out of the file and it is refused at once.
    """
    from mllm_plugin.serving import add_token

    if bool(scope) == everything:
        raise click.UsageError("say what the token opens: --scope KEY=NAME, or --all")
    limits = {"read_only": read_only, "most": max_k, "rate": rate}
    given = {key: value for key, value in limits.items() if value is not None}
    secret = add_token(tokens, name, _scope_of(scope), **given)
    emit(settings, {"name": name, "token": secret}, [secret])


def _bracketed(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def _scope_of(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise click.UsageError("--scope names the same key twice")
    return found


COMMANDS = (mcp, serve, token)
