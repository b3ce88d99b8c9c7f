"""What stands before every call over HTTP: who calls, how often, how much, and what came of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllm_plugin.errors import MLLMError
from mllm_plugin.serving.access import Access
from mllm_plugin.serving.hosts import is_own
from mllm_plugin.serving.metrics import Metrics
from mllm_plugin.serving.problems import Problem
from mllm_plugin.serving.rate import Rate
from mllm_plugin.serving.tokens import Tokens
from mllm_plugin.serving.verbs import VERBS

_LOG = logging.getLogger("mllm_plugin.serving")
CALLS = "/v1/"
METRICS = "/metrics"
_MISSING = "expected a bearer token: the header `Authorization: Bearer TOKEN`"
_UNKNOWN = "unknown token; whoever runs this server makes one with `mllm token`"


class Gate:
    """Lets a call through with the `Access` of its caller, or answers why not; the body is read after that.

    Args:
        app: What answers the calls.
        tokens: None where everybody may do `everybody`.
        everybody: The access without tokens.
        rate, a_minute: Calls a minute for whom the tokens file names no number; None for no limit.
        most_bytes: Of a body.
        metrics: Where calls are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        everybody: Access,
        rate: Rate,
        a_minute: int | None,
        most_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._app, self._tokens, self._everybody = app, tokens, everybody
        self._rate, self._a_minute, self._most = rate, a_minute, most_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or not scope["path"].startswith((CALLS, METRICS)):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, noted)
        finally:
            verb = scope["path"].removeprefix(CALLS)
            self._metrics.count(verb if verb in VERBS else "other", status, time.perf_counter() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = await run_in_threadpool(self._judged, scope)
        if isinstance(found, Problem):
            await answer(send, found)
            return
        scope.setdefault("state", {})["access"] = found
        body = await self._body(scope, receive)
        if body is None:
            await answer(
                send, Problem(413, "BodyTooLarge", f"expected a body of at most {self._most:,} bytes")
            )
            return
        await self._app(scope, _replayed(body, receive), send)

    def _judged(self, scope: Scope) -> Access | Problem:
        """The caller's access, or why it has none."""
        try:
            return self._known(scope)
        except MLLMError as error:  # the tokens file is gone or damaged: nobody passes
            _LOG.error("%s", error)
            return Problem(503, type(error).__name__, "the server cannot read its tokens; see its log")

    def _known(self, scope: Scope) -> Access | Problem:
        access, a_minute = self._everybody, self._a_minute
        if self._tokens is not None:
            secret = _bearer(scope)
            if secret is None:
                return Problem(401, "Unauthorized", _MISSING)
            token = self._tokens.of(secret)
            if token is None:
                return Problem(401, "Unauthorized", _UNKNOWN)
            access, a_minute = token.access(self._everybody), token.rate or a_minute
        elif stranger := _stranger(scope):
            return Problem(403, "AccessError", f"without tokens only this machine is served, not {stranger}")
        if scope["path"].startswith(METRICS):
            whole = not access.scope
            return access if whole else Problem(403, "AccessError", "metrics are for tokens without a scope")
        wait = self._rate.wait(access.name, a_minute) if a_minute else 0.0
        if wait:
            return Problem(429, "RateLimit", f"expected at most {a_minute:,} calls a minute", wait)
        return access

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when it is larger than allowed, of which no more is read."""
        told = _header(scope, b"content-length") or b"0"
        if not told.isdigit() or int(told) > self._most:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._most:
                return None
            if not message.get("more_body", False):
                return bytes(body)


async def answer(send: Send, problem: Problem) -> None:
    """Sends an error as JSON."""
    body = problem.body()
    said = {**problem.headers(), "content-length": str(len(body))}
    headers = [(name.encode(), value.encode()) for name, value in said.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Callable[[], Any]:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _stranger(scope: Scope) -> str:
    """The host that a request was made for, or by a page of, where that is not this machine.

    A page in a browser reaches this machine too, by a name that leads here or by a form.
    """
    said = [(_header(scope, name) or b"").decode("latin-1") for name in (b"host", b"origin")]
    return next((one for one in said if one and not _is_here(one)), "")


def _is_here(host_or_origin: str) -> bool:
    try:
        host = urlsplit(host_or_origin if "//" in host_or_origin else f"//{host_or_origin}").hostname
    except ValueError:
        return False
    return is_own(host or "")


def _bearer(scope: Scope) -> str | None:
    kind, _, secret = (_header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
    return secret.strip() if kind.lower() == "bearer" and secret.strip() else None
