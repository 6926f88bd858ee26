"""The EventSource of `docs/protocol.md`, run as it stands there."""

import re
from itertools import count
from pathlib import Path

import pytest
from harness.browser import STREAM
from harness.client import body, numbered
from harness.polling import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
DELTAS = numbered(60)

pytestmark = pytest.mark.asyncio(loop_scope="session")


def sample():
    found = re.search(r"```js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


async def refuse(page, status, requests):
    """Answer `status` to the requests for streams that have these numbers, counted from 1."""
    numbers = count(1)

    async def handle(route):
        if next(numbers) in requests:
            await route.fulfill(status=status)
        else:
            await route.fallback()

    await page.route(STREAM, handle)


@pytest.mark.parametrize("status", [503, 410, 502])
async def test_sample_reads_the_whole_answer_though_event_source_gave_up(visit, api, stack, status):
    tab = await visit(f"{stack.apis[0].url}/healthz")
    await refuse(tab.page, status, {1, 2, 3, 4})
    chat = await api.create(body({"deltas": DELTAS, "interval": 0.02}))
    await tab.page.evaluate(f"() => {{ {sample()} follow('{chat['id']}'); globalThis.read = () => answer; }}")

    async def is_whole():
        return await tab.page.evaluate("read()") == "".join(DELTAS)

    await wait_until(is_whole, 30)
