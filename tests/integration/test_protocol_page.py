"""The script in `docs/protocol.md` does what the page says of it."""

import asyncio
import os
import re
from pathlib import Path

from harness.programs import NEEDS_CURL
from harness.proxy import cutting_proxy

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
QUESTION = "Count to 40"

pytestmark = NEEDS_CURL


def script():
    found = re.search(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


async def answer_of_script(url):
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script(), "script", QUESTION, env=os.environ | {"URL": url}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


async def test_script_prints_the_whole_answer_though_its_connection_is_cut_again_and_again(api, stack):
    chat = await api.create({"messages": [{"role": "user", "content": QUESTION}]})
    whole = await api.read(chat["id"])
    async with cutting_proxy(stack.apis[1].url, cut_after=1500) as proxy:
        status, printed = await answer_of_script(proxy.url)
    assert (status, printed) == (0, "".join(event.data for event in whole.events[:-1]) + "\n")
    assert proxy.connections > 3
