"""`serve`: several workers that share a socket and a memory."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.serving.ending import ended_cleanly
from mllm_plugin.serving.hosts import check_host
from mllm_plugin.serving.http_app import Serving
from mllm_plugin.serving.metrics import FOLDER
from mllm_plugin.serving.opening import Source
from mllm_plugin.serving.tokens import Tokens

_GRACE = 10  # seconds that running calls get when the server ends
_PATIENCE = 60  # seconds in which a worker must answer, which may be loading its encoder


def run(source: Source, *, host: str, port: int, workers: int, tokens: Path | None, **limits: Any) -> None:
    """Serves until it is interrupted or terminated; see `mllm_plugin.serving.serve`."""
    if tokens is None:
        check_host(host)
    else:
        Tokens(tokens)  # refused here, before a worker starts
    with _bound(host, port) as listening, _run_folder() as folder, ended_cleanly():
        source.open()[0].close()  # made here, or refused here
        serving = Serving(source, tokens, folder, **limits)
        config = uvicorn.Config(
            serving,
            host=host,
            port=port,
            factory=True,
            workers=workers,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE,
            timeout_worker_healthcheck=_PATIENCE,
            server_header=False,
        )
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listening])
        else:
            _run_workers(config, listening, folder)


def _run_workers(config: uvicorn.Config, listening: socket.socket, folder: Path) -> None:
    counts = folder / "metrics"
    counts.mkdir()
    os.environ[FOLDER] = str(counts)  # a worker is a new process and finds it there
    try:
        Multiprocess(config, sockets=[listening]).run()
    finally:
        del os.environ[FOLDER]


@contextmanager
def _run_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mllm-serve-") as folder:
        yield Path(folder)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a taken port is said at once.

    Raises:
        InvalidInputError: The address cannot be used.
    """
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=kind, backlog=2048)
    except OSError as error:
        raise InvalidInputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    listening.set_inheritable(True)
    return listening
