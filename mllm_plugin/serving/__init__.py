"""The agent memory for other processes: `serve` over HTTP, `serve_mcp` over the Model Context Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mllm_plugin.encoders import DEFAULT_ENCODER
from mllm_plugin.errors import AccessError, NotFoundError
from mllm_plugin.extras import needs
from mllm_plugin.serving.access import MOST, Access
from mllm_plugin.serving.hosts import check_host
from mllm_plugin.serving.opening import Opening, Source
from mllm_plugin.serving.standard_output import standard_output_alone
from mllm_plugin.serving.tokens import Token, Tokens, add_token
from mllm_plugin.store.database import FILE_NAME

_PROTOCOL = "the Model Context Protocol"

__all__ = ["AccessError", "Token", "Tokens", "add_token", "serve", "serve_mcp"]


def serve(
    path: str | Path,
    *,
    encoder: Any = DEFAULT_ENCODER,
    host: str = "127.0.0.1",
    port: int = 8765,
    workers: int = 1,
    tokens: str | Path | None = None,
    read_only: bool = False,
    most_bytes: int = 1_000_000,
    most: int = MOST,
    a_minute: int | None = None,
) -> None:
    """Serves a memory over HTTP until it is interrupted or terminated; running calls end first.

    Args:
        path: Its folder; made when there is none.
        encoder: A model's name or path, or an encoder; for several workers one that can be pickled.
        host: Address to listen on; only 127.0.0.1 and its like without tokens.
        port: To listen on.
        workers: Processes; each opens the memory. One that dies is started again.
        tokens: File that `add_token` or `mllm token` made.
        read_only: Never write.
        most_bytes: Largest body.
        most: Results that a call may ask for.
        a_minute: Calls a minute of each token, over all workers; None for no limit.

    Raises:
        MissingDependencyError: The extra `serve` is not installed.
        InvalidInputError: Other machines would be served without tokens, or the address is taken.
        NotFoundError: There is no tokens file, or no memory to read.
    """
    with needs("serve", "serving over HTTP"):
        from mllm_plugin.serving import http_server
    source = _source(path, encoder, read_only)
    file = None if tokens is None else Path(tokens)
    how = {"host": host, "port": port, "workers": workers, "tokens": file}
    http_server.run(source, **how, most_bytes=most_bytes, most=most, a_minute=a_minute)


def serve_mcp(
    path: str | Path,
    *,
    encoder: Any = DEFAULT_ENCODER,
    scope: Mapping[str, str] | None = None,
    read_only: bool = False,
    http: tuple[str, int] | None = None,
) -> None:
    """Serves a memory as tools of the Model Context Protocol.

    Args:
        path: Its folder; made when there is none.
        encoder: A model's name or path, or an encoder.
        scope: What every call is bound to, such as {"user": "ann"}; a call may narrow it.
        read_only: Offer only the tools that read.
        http: Address of this machine and port; standard input and output when left out.

    Raises:
        MissingDependencyError: The extra `mcp` is not installed.
        InvalidInputError: The address is one that other machines reach.
        NotFoundError: There is no memory to read.
    """
    from mllm_plugin import __version__

    opening = Opening(_source(path, encoder, read_only).open)
    access = Access(dict(scope or {}), read_only)
    if http is None:
        _serve_stdio(opening, access, __version__)
        return
    check_host(
        http[0], "tools over the network need a proxy that knows its users, or `mllm serve` with tokens"
    )
    with needs("mcp", _PROTOCOL):
        from mllm_plugin.serving.mcp_server import run_http
    run_http(opening, access, __version__, *http)


def _serve_stdio(opening: Opening, access: Access, version: str) -> None:
    with needs("mcp", _PROTOCOL):
        if find_spec("mcp") is None:
            raise ModuleNotFoundError(name="mcp")  # before a memory is made
        output = standard_output_alone()
        opening.start()  # takes about as long as to load the SDK
        from mllm_plugin.serving.mcp_server import run_stdio
    run_stdio(opening, access, version, output)


def _source(path: str | Path, encoder: Any, read_only: bool) -> Source:
    if read_only and not (Path(path) / FILE_NAME).is_file():
        raise NotFoundError(f"no memory at {path}; without read-only one is made")
    return Source(Path(path).absolute(), encoder, read_only)
