"""`/v1/models`: which models there are, as the upstream says."""

from urllib.parse import quote

from fastapi import APIRouter, Response

from api import openapi
from api.errors import ApiError
from api.services import Deps

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models", **openapi.MODELS)
async def list_models(deps: Deps) -> Response:
    """The upstream's models."""
    upstream = await deps.passthrough()
    return Response(await upstream.get("models"), media_type="application/json")


@router.get("/models/{model:path}", **openapi.MODELS)
async def read_model(model: str, deps: Deps) -> Response:
    """One of them; its id may have slashes."""
    if any(part in ("", ".", "..") for part in model.split("/")):  # else it could name what is beside the models
        raise ApiError(404, f"There is no model {model[:64]!r}.", param="model", code="model_not_found")
    upstream = await deps.passthrough()
    return Response(await upstream.get(f"models/{quote(model, safe='')}"), media_type="application/json")
