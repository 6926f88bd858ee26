"""The file at `/` and how it is served."""

import hashlib
import re
from base64 import b64encode

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.routes.page import FILE, page_router

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_page_is_html_that_is_asked_for_again_each_time(api):
    answer = await api.http.get("/")
    assert answer.content == FILE.read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_head_gives_the_headers_alone(api):
    answer = await api.http.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == FILE.stat().st_size


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}', "*"])
async def test_a_known_page_is_not_sent_again(api, known):
    tag = (await api.http.get("/")).headers["etag"]
    answer = await api.http.get("/", headers={"If-None-Match": known.format(tag)})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == tag


async def test_another_page_is_sent(api):
    answer = await api.http.get("/", headers={"If-None-Match": '"other"'})
    assert answer.status_code == 200


async def test_only_the_files_own_code_may_run_and_talk_to_its_server(api):
    policy = (await api.http.get("/")).headers["content-security-policy"]
    rules = {name: rest for name, _, rest in (rule.partition(" ") for rule in policy.split("; "))}
    script = re.search(rb'<script type="module">(.*?)</script>', FILE.read_bytes(), re.DOTALL)[1]
    assert rules["script-src"] == f"'sha256-{b64encode(hashlib.sha256(script).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy


async def test_the_page_needs_nothing_from_elsewhere():
    without_namespaces = FILE.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(|<link(?! rel=.icon)", without_namespaces)


async def test_an_api_without_the_file_has_no_page(tmp_path):
    app = FastAPI()
    app.include_router(page_router(tmp_path / "index.html"))
    assert TestClient(app).get("/").status_code == 404
