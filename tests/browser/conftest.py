"""A headless Chromium for all tests of the page; each test has profiles of its own."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from harness.browser import Tab, script
from harness.client import Client, Simulator
from harness.fixtures import connecting, watching
from playwright.async_api import Browser, async_playwright, expect

Visit = Callable[..., Awaitable[Tab]]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 20_000


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"there is no browser: none of {', '.join(PROGRAMS)} is installed")
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        # Chromium's own sandbox does not work for root.
        launched = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS, chromium_sandbox=False)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser, stack) -> AsyncIterator[Visit]:
    """Open an address, by default the page's, in a new profile; the simulator answers it as `fields` say."""
    async with AsyncExitStack() as contexts:

        async def open_tab(address: str = stack.apis[0].url, fields=None, **options) -> Tab:
            context = await browser.new_context(**{"locale": "en-US", **options})
            contexts.push_async_callback(context.close)
            if fields is not None:
                await script(context, fields)
            tab = Tab(await context.new_page())
            await tab.page.goto(address)
            return tab

        yield open_tab


@pytest_asyncio.fixture(loop_scope="session")
async def connect() -> AsyncIterator[Callable[[str], Client]]:
    """The harness's, in the browser's event loop."""
    async with connecting() as make:
        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def simulator(upstream_url) -> AsyncIterator[Simulator]:
    """The same."""
    async with watching(upstream_url) as simulator:
        yield simulator
