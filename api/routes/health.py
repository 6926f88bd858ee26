"""`/healthz` and `/readyz`, for load balancers and orchestrators."""

from fastapi import APIRouter, Response

from api import openapi
from api.errors import ApiError, json_response, within_patience
from api.services import Deps

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", **openapi.HEALTHZ)
async def healthz(deps: Deps) -> Response:
    """The process is alive and will stay: one that was told to end says 404 while it lingers.

    With that HAProxy sends it nothing new, but leaves its streams alone (`http-check disable-on-404`).
    """
    if deps.leaving.is_set():
        raise ApiError(404, "This replica is about to end.", type_="server_error", code="leaving")
    return json_response({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", **openapi.READYZ)
async def readyz(deps: Deps) -> Response:
    """Redis is reachable and at least one worker is alive."""
    async with within_patience():
        workers = await deps.queue.live_workers(int(deps.settings.lease * 1000))
    if workers == 0:
        raise ApiError(
            503,
            "No worker is alive: start one with 'piropiro worker'.",
            type_="server_error",
            code="no_worker",
            headers={"Retry-After": "1"},
        )
    return json_response({"status": "ok", "workers": workers})
