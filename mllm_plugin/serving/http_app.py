"""The verbs over HTTP: an application for any ASGI server."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from mllm_plugin.serving.access import MOST, Access
from mllm_plugin.serving.ending import end_with_parent
from mllm_plugin.serving.gate import CALLS, METRICS, Gate
from mllm_plugin.serving.metrics import Metrics
from mllm_plugin.serving.opening import Opening, Source
from mllm_plugin.serving.problems import Problem, invalid, problem_of
from mllm_plugin.serving.rate import Rate
from mllm_plugin.serving.tokens import Tokens
from mllm_plugin.serving.verbs import VERBS, Verb

_WRITING, _READING = 8, 32  # threads: calls that wait for another writer must not hold up those that read
_STATUSES = {
    400: "The body is no JSON.",
    401: "No token, or an unknown one.",
    403: "The token does not allow this.",
    404: "No such memory.",
    409: "Somebody else changed it first.",
    413: "The body is too large.",
    422: "An argument is wrong; the message says which.",
    429: "Too many calls; `Retry-After` says when.",
    503: "Somebody else has been writing for long; `Retry-After` says when.",
}


class _Error(BaseModel):
    type: str
    message: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: _Error


@dataclass(frozen=True)
class Serving:
    """What a worker serves, and its limits; calling it makes the application. It can be pickled.

    Attributes:
        source: The memory.
        tokens: File of tokens; None serves everybody.
        run_folder: Temporary folder that the workers of a server share.
        most_bytes: Of a body.
        most: Results that a call may ask for.
        a_minute: Calls a minute of each token; None for no limit.
    """

    source: Source
    tokens: Path | None
    run_folder: Path
    most_bytes: int = 1_000_000
    most: int = MOST
    a_minute: int | None = None

    def __call__(self) -> FastAPI:
        """The application."""
        opening, metrics = Opening(self.source.open, whole=True), Metrics()
        rate = Rate(self.run_folder / "rate")
        app = FastAPI(
            title="mllm",
            description="A memory that agents live in: remember, recall, forget.",
            lifespan=_lifespan(opening, rate),
            redirect_slashes=False,
        )
        _add_verbs(app, opening)
        _add_state(app, opening, metrics)
        _say_errors_alike(app)
        app.add_middleware(
            Gate,
            tokens=None if self.tokens is None else Tokens(self.tokens),
            everybody=Access(read_only=self.source.read_only, most=self.most),
            rate=rate,
            a_minute=self.a_minute,
            most_bytes=self.most_bytes,
            metrics=metrics,
        )
        return app


def _lifespan(opening: Opening, rate: Rate) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening.start()
        end_with_parent()
        yield
        opening.close()
        rate.close()

    return lifespan


def _add_verbs(app: FastAPI, opening: Opening) -> None:
    threads = {True: CapacityLimiter(_WRITING), False: CapacityLimiter(_READING)}
    shown = {status: {"model": ErrorAnswer, "description": text} for status, text in _STATUSES.items()}
    for verb in VERBS.values():
        app.add_api_route(
            CALLS + verb.name,
            _endpoint(verb, opening, threads[verb.writes]),
            methods=["POST"],
            name=verb.name,
            summary=verb.title,
            description=verb.description,
            responses=shown,  # type: ignore[arg-type]
            dependencies=[Security(HTTPBearer(auto_error=False))],
        )


def _endpoint(verb: Verb, opening: Opening, threads: CapacityLimiter) -> Callable[..., Any]:
    """Answers calls of a verb, each in a thread."""

    def answered(access: Access, arguments: Any) -> Response:
        try:
            answer = access.call(opening, verb, arguments)
            return Response(json.dumps(answer, ensure_ascii=False), media_type="application/json")
        except Exception as error:
            return _said(problem_of(error))

    async def call(request: Request, arguments: Any) -> Response:
        return await run_sync(answered, request.state.access, arguments, limiter=threads)

    call.__annotations__["arguments"] = verb.arguments
    return call


def _add_state(app: FastAPI, opening: Opening, metrics: Metrics) -> None:
    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether a call would not wait")
    async def ready() -> JSONResponse:
        state = opening.state
        return JSONResponse({"status": state}, status_code=200 if state == "ready" else 503)

    @app.get(METRICS, summary="Counts for Prometheus")
    def metrics_shown() -> Response:
        return Response(metrics.shown(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _say_errors_alike(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def of_arguments(request: Request, error: RequestValidationError) -> Response:
        return _said(invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        answer = _said(Problem(error.status_code, "HTTPError", str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer


def _said(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers())
