"""Whatever happens to the page and its connection, it ends with exactly what the log has."""

import asyncio
import re
from itertools import count

import pytest
from harness.browser import POST, STREAM, Tab
from harness.client import numbered
from harness.polling import wait_until
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

DELTAS = numbered(90)
TEXT = "".join(DELTAS)
SLOW = {"deltas": DELTAS, "interval": 0.05}
SLOWER = {"deltas": DELTAS, "interval": 0.1}
IDENTICAL = "Nothing lost: identical to the log"


async def ends_whole(tab: Tab, text: str = TEXT) -> None:
    await expect(tab.foot.locator("b")).to_have_text(IDENTICAL)
    assert await tab.text() == text


async def first(context, pattern, times, answer):
    """Answer the first so many requests for `pattern` with `answer`; the others go through."""
    numbers = count(1)

    async def handle(route):
        if next(numbers) > times:
            await route.fallback()
        elif answer is None:
            await route.abort()
        else:
            await route.fulfill(**answer)

    await context.route(pattern, handle)


BUSY = {"status": 503, "headers": {"Retry-After": "1"}, "body": "<html>the load balancer's</html>"}


async def test_a_reload_in_mid_answer_goes_on_after_the_last_event(visit, api):
    tab = await visit(fields=SLOW)
    chat_id = await tab.ask()
    await tab.until_text(40)
    await tab.page.reload()
    await ends_whole(tab)
    assert (await api.chat(chat_id))["text"] == TEXT
    start, resumed = tab.cursors
    assert start == ""
    assert resumed.startswith(f"{chat_id}:")
    await expect(tab.fact("Connections")).to_have_text("2, 1 resumed")
    await expect(tab.page.locator("#journal")).to_contain_text("Page loaded again")
    await expect(tab.page.locator("#journal")).not_to_contain_text("Connection lost")


async def test_many_reloads_lose_nothing(visit):
    tab = await visit(fields=SLOWER)
    await tab.ask()
    for length in (20, 60, 100, 140):
        await tab.until_text(length)
        await tab.page.reload()
    await ends_whole(tab)


async def test_a_reload_without_session_storage_reads_from_the_start(visit):
    tab = await visit(fields=SLOW)
    await tab.ask()
    await tab.until_text(40)
    await tab.page.add_init_script("sessionStorage.clear()")
    await tab.page.reload()
    await ends_whole(tab)
    assert tab.cursors[-1] == ""


async def test_a_second_tab_shows_the_same_text_live(visit):
    tab = await visit(fields=SLOW)
    await tab.ask("one")
    await tab.until_text(40)
    async with tab.page.context.expect_page() as opened:
        await tab.page.get_by_role("link", name="Second tab").click()
    second = Tab(await opened.value)
    await expect(second.page.locator(".question")).to_have_text("one")
    await second.until_text(60)
    await expect(second.page.locator("#link")).to_have_text("Live")
    await asyncio.gather(ends_whole(tab), ends_whole(second))


async def test_a_question_asked_in_one_tab_appears_in_the_other(visit):
    tab = await visit(fields=SLOW)
    await tab.ask("one")
    second = await tab.second()
    await ends_whole(tab)
    await ends_whole(second)
    chat_id = await second.ask("two")
    await expect(tab.page.locator(".question")).to_have_text(["one", "two"])
    await tab.until_text(20)
    await asyncio.gather(ends_whole(tab), ends_whole(second))
    assert tab.chat_id == second.chat_id == chat_id
    await tab.page.reload()
    await expect(tab.page.locator(".question")).to_have_text(["one", "two"])


async def test_the_link_alone_shows_the_answer_in_another_browser(visit):
    tab = await visit(fields=SLOW)
    await tab.ask("a question of mine")
    await tab.until_text(40)
    other = await visit(tab.page.url, fields={"deltas": ["another"]})
    await other.until_text(60)
    await asyncio.gather(ends_whole(tab), ends_whole(other))
    await expect(other.page.locator(".linked")).to_be_visible()
    await other.page.reload()
    await ends_whole(other)
    await other.ask("from here")
    await ends_whole(other, "another")
    await expect(other.page.locator(".question")).to_have_text("from here")


async def test_a_cut_page_stands_still_while_the_log_grows_and_then_gets_the_rest(visit, api):
    tab = await visit(fields=SLOWER)
    chat_id = await tab.ask()
    await tab.until_text(40)
    await tab.button("Cut the connection").click()
    await expect(tab.page.locator("#link")).to_have_text("Cut")
    kept = await tab.text()

    async def has_grown():
        return len((await api.chat(chat_id))["text"]) > len(kept) + 60

    await wait_until(has_grown)
    await expect(tab.page.locator("#story")).to_have_text(
        re.compile(r"the worker goes on: [1-9]\d+ characters wait in the log")
    )
    assert await tab.text() == kept
    await tab.button("Reconnect").click()
    await ends_whole(tab)
    assert [cursor != "" for cursor in tab.cursors] == [False, True]
    await expect(tab.fact("Connections")).to_have_text("2, 1 resumed")
    await expect(tab.fact("Lost")).to_have_text("0, identical to the log")
    await expect(tab.page.locator("#journal")).to_contain_text(f"Resumed after {len(kept)} characters")


async def test_a_cut_page_learns_that_the_answer_has_ended_and_gets_the_rest(visit):
    tab = await visit(fields=SLOW)
    await tab.ask()
    await tab.until_text(40)
    await tab.button("Cut the connection").click()
    await expect(tab.page.locator("#story")).to_contain_text("The answer has ended meanwhile")
    assert len(await tab.text()) < len(TEXT)
    await tab.button("Reconnect").click()
    await ends_whole(tab)


async def test_a_cut_page_can_still_stop(visit, api):
    tab = await visit(fields=SLOWER)
    chat_id = await tab.ask()
    await tab.until_text(40)
    await tab.button("Cut the connection").click()
    await tab.button("Stop").click()
    await expect(tab.foot.locator("b")).to_have_text(IDENTICAL)
    chat = await api.chat(chat_id)
    assert (chat["status"], chat["text"]) == ("cancelled", await tab.text())


async def test_a_load_balancers_503_is_survived(visit):
    tab = await visit(fields=SLOWER)
    chat_id = await tab.ask()
    await tab.until_text(40)
    await first(tab.page.context, STREAM, 2, BUSY)
    await tab.page.reload()
    await expect(tab.page.locator("#link")).to_have_text(re.compile(r"Reconnecting in \d+\ss"))
    await ends_whole(tab)
    assert len(tab.cursors) >= 3
    assert all(cursor.startswith(f"{chat_id}:") for cursor in tab.cursors[1:])


async def test_a_stream_that_stays_refused_is_finished_from_the_json(visit, api):
    tab = await visit(fields=SLOW)
    await tab.ask()
    await tab.until_text(40)
    await first(tab.page.context, STREAM, 1000, BUSY)
    await tab.page.reload()
    await ends_whole(tab)


async def test_a_lost_cursor_is_read_again_from_the_start(visit):
    tab = await visit(fields=SLOWER)
    await tab.ask()
    await tab.until_text(40)
    gone = {"status": 410, "json": {"error": {"code": "cursor_lost"}}}
    await first(tab.page.context, re.compile(r"/stream\?.*after=chat"), 1000, gone)
    await tab.page.reload()
    await expect(tab.page.locator("#journal")).to_contain_text("Cursor lost")
    await ends_whole(tab)
    assert tab.cursors[-1] == ""


async def test_a_killed_replica_costs_the_page_nothing(visit, start_stack, connect):
    stack = start_stack()
    tab = await visit(stack.apis[0].url, fields=SLOWER)
    chat_id = await tab.ask()
    await tab.until_text(40)
    stack.apis[0].process.kill()
    await expect(tab.page.locator("#link")).to_have_text(re.compile("Reconnecting in"))
    stack.start_api(stack.apis.pop().port)
    await ends_whole(tab)
    assert (await connect(stack.apis[0].url).chat(chat_id))["text"] == TEXT
    assert tab.cursors[-1].startswith(f"{chat_id}:")
    await expect(tab.page.locator("#journal")).to_contain_text("Connection lost")


async def test_a_page_that_waits_tries_again_at_once_when_the_network_is_back(visit, start_stack):
    stack = start_stack()
    tab = await visit(stack.apis[0].url, fields=SLOWER)
    await tab.ask()
    await tab.until_text(40)
    stack.apis[0].process.kill()
    await expect(tab.page.locator("#link")).to_have_text(re.compile(r"Reconnecting in [4-9]\ss"))
    stack.start_api(stack.apis.pop().port)
    stack.wait_until_ready(1)
    await tab.page.evaluate("dispatchEvent(new Event('online'))")
    await expect(tab.page.locator("#link")).to_have_text(re.compile("Live|Closed"), timeout=5000)
    await ends_whole(tab)


async def test_a_new_attempt_replaces_the_text(visit, key):
    fault = {"kind": "cut", "after": 40, "times": 1}
    tab = await visit(fields={**SLOW, "key": key, "fault": fault})
    await tab.ask()
    await tab.until_text(20)
    await expect(tab.fact("Attempt")).to_have_text("2")
    await ends_whole(tab)
    await expect(tab.foot).to_contain_text("2 attempts")
    await expect(tab.page.locator("#journal")).to_contain_text("Attempt 2: the old text is dropped")


async def test_a_killed_worker_is_replaced_before_the_readers_eyes(visit, start_stack):
    stack = start_stack(workers=2, lease=1)
    tab = await visit(stack.apis[0].url, fields=SLOWER)
    await tab.ask()
    await tab.until_text(40)
    stack.start_worker()
    for worker in stack.workers[:2]:
        stack.kill_worker(worker)
    await expect(tab.fact("Attempt")).to_have_text("2")
    await ends_whole(tab)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(BUSY, id="load balancer"),
        pytest.param({"status": 429, "headers": {"Retry-After": "1"}, "json": {"error": {}}}, id="full queue"),
        pytest.param(None, id="no network"),
    ],
)
async def test_a_question_that_is_sent_again_is_asked_once(visit, simulator, key, answer):
    tab = await visit(fields={"deltas": ["once"], "key": key})
    await first(tab.page.context, POST, 2, answer)
    await tab.ask()
    await ends_whole(tab, "once")
    assert len(tab.posts) == 3
    assert len({post.headers["idempotency-key"] for post in tab.posts}) == 1
    assert len(await simulator.requests(key)) == 1


async def test_an_accepted_question_whose_answer_was_lost_is_asked_once(visit, simulator, key):
    tab = await visit(fields={**SLOW, "key": key})
    numbers = count()

    async def lose_the_first(route):
        if next(numbers):
            await route.fallback()
        else:
            body = {**route.request.post_data_json, "simulator": {"ttft": 0, **SLOW, "key": key}}
            await route.fetch(post_data=body)
            await route.abort()

    await tab.page.context.route(POST, lose_the_first)
    await tab.ask()
    await ends_whole(tab)
    assert len(await simulator.requests(key)) == 1


async def test_a_question_not_yet_accepted_survives_a_reload(visit, simulator, key):
    tab = await visit(fields={**SLOW, "key": key})
    await first(tab.page.context, POST, 2, BUSY)
    await tab.input.fill("patience")
    await tab.input.press("Enter")
    await expect(tab.page.locator("#link")).to_have_text(re.compile("Sending again"))
    await tab.page.reload()
    await ends_whole(tab)
    await expect(tab.page.locator(".question")).to_have_text("patience")
    assert len({post.headers["idempotency-key"] for post in tab.posts}) == 1
    assert len(await simulator.requests(key)) == 1


async def test_a_question_can_be_stopped_before_it_is_accepted(visit, simulator, key):
    tab = await visit(fields={**SLOW, "key": key})
    await first(tab.page.context, POST, 1000, BUSY)
    await tab.input.fill("never mind")
    await tab.input.press("Enter")
    await expect(tab.page.locator("#link")).to_have_text(re.compile("Sending again"))
    await tab.button("Stop").click()
    await expect(tab.foot).to_have_text("Stopped")
    await expect(tab.page.locator(".failure")).to_be_hidden()
    sent = len(tab.posts)
    await tab.page.reload()
    await expect(tab.foot).to_have_text("Stopped")
    await expect(tab.button("Send")).to_be_visible()
    assert len(tab.posts) == sent
    assert await simulator.requests(key) == []


async def test_an_unknown_chat_is_said_to_be_unknown(visit, stack):
    tab = await visit(f"{stack.apis[0].url}/#chat_aaaaaaaaaaaaaaaaaaaa")
    await expect(tab.foot).to_have_text("Unknown or expired")
    await expect(tab.page.locator(".failure")).to_contain_text("no such chat")


async def test_an_expired_answer_is_still_in_the_browser_that_read_it(visit, start_stack, connect):
    stack = start_stack(retention=3)
    tab = await visit(stack.apis[0].url, fields={"deltas": ["kept"]})
    chat_id = await tab.ask("one")
    await ends_whole(tab, "kept")
    http = connect(stack.apis[0].url).http

    async def is_expired():
        return (await http.get(f"/v1/chats/{chat_id}")).status_code == 404

    await wait_until(is_expired)
    await tab.page.reload()
    await ends_whole(tab, "kept")
