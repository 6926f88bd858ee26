"""The demo page in a real browser: one tab, as a person sees and uses it."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, Route

from harness.client import Json
from harness.polling import wait_until

QUESTION = "やっほ"
POST = "**/v1/chats"
STREAM = "**/v1/chats/*/stream*"


class Tab:
    """One tab, with the requests it made and what it complained about."""

    def __init__(self, page: Page):
        self.page = page
        self.requests = list[Request]()
        self.complaints = list[str]()
        page.on("request", self._remember)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)

    def _remember(self, request: Request) -> None:
        self.requests.append(request)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            self.complaints.append(message.text)

    @property
    def answer(self) -> Locator:
        return self.page.locator(".content").last

    @property
    def foot(self) -> Locator:
        """The line below the last answer."""
        return self.page.locator(".foot").last

    @property
    def input(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message")

    @property
    def chat_id(self) -> str:
        return urlsplit(self.page.url).fragment

    @property
    def cursors(self) -> list[str]:
        """Where each of its streams began, the oldest first; empty for the start."""
        streams = [request for request in self.requests if request.resource_type == "eventsource"]
        return [parse_qs(urlsplit(request.url).query).get("after", [""])[0] for request in streams]

    @property
    def posts(self) -> list[Request]:
        """What it sent to create chats."""
        return [request for request in self.requests if urlsplit(request.url).path == "/v1/chats"]

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def fact(self, name: str) -> Locator:
        """What the panel says under that name."""
        return self.page.locator(f"dt:text-is('{name}') + dd")

    async def ask(self, question: str = QUESTION) -> str:
        """Send a question; the chat's id, once there is one."""
        before = self.chat_id
        await self.input.fill(question)
        await self.input.press("Enter")
        return await wait_until(lambda: self.chat_id != before and self.chat_id)

    async def text(self) -> str:
        """The last answer, to the letter."""
        return await self.answer.evaluate("element => element.textContent")

    async def until_text(self, length: int) -> str:
        """The last answer, once it is at least so long."""

        async def is_long() -> str | None:
            text = await self.text()
            return text if len(text) >= length else None

        return await wait_until(is_long, 20)

    async def second(self) -> "Tab":
        """Another tab of the same browser with the same address."""
        tab = Tab(await self.page.context.new_page())
        await tab.page.goto(self.page.url)
        return tab


async def script(context: BrowserContext, fields: Mapping[str, Any]) -> None:
    """Make the simulator answer the page's questions as `fields` say."""

    async def add(route: Route) -> None:
        body: Json = json.loads(route.request.post_data or "{}")
        await route.continue_(post_data=json.dumps({**body, "simulator": {"ttft": 0, **fields}}))

    await context.route(POST, add)
