"""Where the upstream is, how it is spoken to, and what of its texts a client may see."""

import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
import truststore
from yarl import URL

from shared.settings import Settings

_DEFAULT_URL = "https://api.openai.com/v1"
_CONNECT_TIMEOUT = 5.0
_IDLE_CONNECTION = 5.0
_SECRETS = re.compile(r"\b(?:sk|pk|rk)-[\w*.…-]{3,}|(?i:bearer)\s+\S+|(?<=://)[^/\s@]+@")
_MAX_MESSAGE = 2000
_SHORTEST_SECRET = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The upstream's API, and what goes with every request to it; both as the OpenAI SDK has them."""

    base: URL
    headers: Mapping[str, str]
    proxy: URL | None
    proxy_headers: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make it of the settings and the environment's proxy."""
        base = URL(settings.openai_base_url or _DEFAULT_URL)
        # A server without authentication needs no key, but may insist on a header.
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "piropiro",
            "Authorization": f"Bearer {key}",
        }
        if settings.openai_org_id:
            headers["OpenAI-Organization"] = settings.openai_org_id
        if settings.openai_project_id:
            headers["OpenAI-Project"] = settings.openai_project_id
        for line in (settings.openai_custom_headers or "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip()] = value.strip()
        if base.user is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(base.user, base.password or "")
        base = base.with_user(None)
        proxy, proxy_headers = _proxy(base)
        if base.scheme == "http":  # which the proxy reads itself; else it gets only its own, with CONNECT
            headers |= proxy_headers
        return cls(base, headers, proxy, proxy_headers)

    def url(self, path: str) -> URL:
        """The address of `path`, which is percent-encoded, such as `chat/completions`."""
        return self.base.with_path(f"{self.base.raw_path.rstrip('/')}/{path}", encoded=True, keep_query=True)


def _proxy(url: URL) -> tuple[URL | None, dict[str, str]]:
    """The environment's proxy for the upstream, and what authenticates us there.

    aiohttp would ask the environment anew for every request, in a thread, and look for a netrc file.
    """
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if address is None or urllib.request.proxy_bypass(url.authority):
        return None, {}
    proxy = URL(address if "://" in address else f"http://{address}")
    if proxy.user is None:
        return proxy, {}
    return proxy.with_user(None), {"Proxy-Authorization": aiohttp.encode_basic_auth(proxy.user, proxy.password or "")}


def open_session() -> aiohttp.ClientSession:
    """A connection pool; it belongs to the running event loop, and the caller must close it.

    An endpoint's headers are not the session's: it would send those to a proxy as well.
    """
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_TIMEOUT),
        connector=aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_IDLE_CONNECTION, ssl=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ),
    )


def secrets(settings: Settings) -> list[str]:
    """What is known to us and to nobody else: the key, the address's password, the values of custom headers."""
    custom = (line.partition(":")[2].strip() for line in (settings.openai_custom_headers or "").splitlines())
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
    found = (key, URL(settings.openai_base_url or "").password or "", *custom)
    return [secret for secret in found if len(secret) >= _SHORTEST_SECRET]


def redact(text: str, *secrets: str) -> str:
    """Make an upstream's text fit for a client: without a secret or what looks like one, and not too long."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return _SECRETS.sub("***", text)[:_MAX_MESSAGE]
