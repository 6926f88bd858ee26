"""`/`: the demo page, one file that needs nothing from anywhere else."""

import base64
import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter, Request, Response

logger = logging.getLogger(__name__)

FILE = Path(__file__).parents[2] / "web" / "index.html"
"""Beside the package `api`, in a checkout as in the image."""

_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)
_ETAG = re.compile(r'(?:W/)?("[^"]*"|\*)')
"""Compared weakly (RFC 9110, 13.1.2): a proxy that compresses makes the tag a weak one."""


def page_router(file: Path = FILE) -> APIRouter:
    """Serve `file`, which is read now; nothing is served if it is not there."""
    router = APIRouter()
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        logger.warning("there is no demo page at /: %s is missing", file)
        return router
    headers = _headers(content)

    @router.head("/", include_in_schema=False)
    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        known = _ETAG.findall(request.headers.get("if-none-match", ""))
        if headers["ETag"] in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="text/html; charset=utf-8")

    return router


def _headers(content: bytes) -> dict[str, str]:
    return {
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        "Content-Security-Policy": _policy(content),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _policy(content: bytes) -> str:
    """Only what the file itself contains may run, and it may talk to this server alone."""
    inline = _INLINE.findall(content)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(code for kind, code in inline if kind == b'script')}",
            f"style-src {_hashes(code for kind, code in inline if kind == b'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _hashes(codes: Iterable[bytes]) -> str:
    digests = (base64.b64encode(hashlib.sha256(code).digest()).decode() for code in codes)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
