"""The simulator as a server: puts its endpoints together and runs them.

Beside OpenAI's endpoints: `GET /simulator/requests` lists the last requests (journal.Record) for tests to
look at, with `?key=` those of one key; `DELETE` forgets them all; `/simulator/responses` does both for what was
generated behind `/v1/responses`, each response once; `GET /healthz` answers once the server is up. What a request
can script is described in `simulator/script.py`.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.completions import CompletionsEndpoint, require_key
from simulator.errors import ApiError
from simulator.journal import Journal
from simulator.question import unknown_model
from simulator.responses import ResponseEndpoint, ResponsesEndpoint, Runs

MODELS = ("gpt-4o-mini", "gpt-4o", "simulator")
_CREATED = 1_735_689_600


def create_app() -> Starlette:
    """A fresh simulator with an empty journal."""
    journal, runs = Journal(), Runs()
    one_response = ResponseEndpoint(journal, runs)

    async def read_requests(request: Request) -> Response:
        return Response(journal.encode(request.query_params.get("key")), media_type="application/json")

    async def clear_requests(_: Request) -> Response:
        journal.clear()
        return Response(status_code=204)

    async def read_responses(request: Request) -> Response:
        return Response(runs.encode(request.query_params.get("key")), media_type="application/json")

    async def clear_responses(_: Request) -> Response:
        runs.clear()
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", CompletionsEndpoint(journal), methods=["POST"]),
            Route("/v1/responses", ResponsesEndpoint(journal, runs), methods=["POST"]),
            Route("/v1/responses/{id}", one_response, methods=["GET", "DELETE"]),
            Route("/v1/responses/{id}/cancel", one_response, methods=["POST"]),
            Route("/simulator/responses", read_responses, methods=["GET"]),
            Route("/simulator/responses", clear_responses, methods=["DELETE"]),
            Route("/v1/models", list_models),
            Route("/v1/models/{model:path}", retrieve_model),
            Route("/simulator/requests", read_requests, methods=["GET"]),
            Route("/simulator/requests", clear_requests, methods=["DELETE"]),
            Route("/healthz", check_health),
        ],
        exception_handlers={ApiError: _refuse, HTTPException: _refuse_route},
    )


async def list_models(request: Request) -> Response:
    """`GET /v1/models`."""
    require_key(request.headers.get("authorization", ""))
    return JSONResponse({"object": "list", "data": [_model(name) for name in MODELS]})


async def retrieve_model(request: Request) -> Response:
    """`GET /v1/models/{model}`; stricter than completions, which take any name."""
    require_key(request.headers.get("authorization", ""))
    name = request.path_params["model"]
    if name not in MODELS:
        raise unknown_model(name)
    return JSONResponse(_model(name))


async def check_health(_: Request) -> Response:
    """`GET /healthz`."""
    return JSONResponse({"status": "ok"})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "simulator"}


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.envelope(), error.status, error.headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"Invalid URL ({request.method} {request.url.path})"
    return await _refuse(request, ApiError(error.status_code, message, headers=error.headers))


app = create_app()
