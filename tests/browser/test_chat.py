"""A person at the page: asks, reads, stops, goes on talking."""

import json

import pytest
from harness.client import numbered
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW = {"deltas": numbered(400), "interval": 0.05}
IDENTICAL = "identical to the log"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


async def test_an_answer_arrives_as_the_log_has_it(visit, api):
    deltas = ["や", "っ", " ほ\n", "\n", "  a\r\n", "", "👩‍👩‍👧", "data: x\n"]
    tab = await visit(fields={"deltas": deltas, "interval": 0.01})
    chat_id = await tab.ask()
    await expect(tab.foot).to_contain_text(IDENTICAL)
    assert await tab.text() == "".join(deltas) == (await api.chat(chat_id))["text"]


async def test_an_answer_is_shown_while_it_arrives(visit, api):
    tab = await visit(fields=SLOW)
    chat_id = await tab.ask()
    await tab.until_text(20)
    assert (await api.chat(chat_id))["status"] == "running"
    await expect(tab.page.locator("#link")).to_have_text("Live")
    await expect(tab.fact("Status")).to_have_text("Writing")
    await expect(tab.fact("Attempt")).to_have_text("1")
    await expect(tab.fact("First delta")).to_contain_text("s")
    await expect(tab.fact("Speed")).to_contain_text("deltas/s")
    await expect(tab.fact("Connections")).to_have_text("1")


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_the_first_answer_is_one_click_away_and_long_enough_to_be_cut(visit, api, language):
    tab = await visit()
    await tab.page.locator(f"#suggestions [lang={language}]").click()
    await tab.until_text(20)
    assert (await api.chat(tab.chat_id))["status"] == "running"
    await expect(tab.button("Cut the connection")).to_be_enabled()
    await api.cancel(tab.chat_id)


async def test_a_long_answer_flat_out_is_whole(visit, api):
    tab = await visit(fields={"deltas": ["x" * 50, "\n", "y" * 100], "tokens": 9000, "interval": 0})
    chat_id = await tab.ask()
    await expect(tab.foot).to_contain_text(IDENTICAL)
    assert await tab.text() == (await api.chat(chat_id))["text"]


async def test_stop_really_ends_the_answer(visit, api, simulator, key):
    tab = await visit(fields={**SLOW, "key": key})
    chat_id = await tab.ask()
    await tab.until_text(20)
    await tab.button("Stop").click()
    await expect(tab.foot).to_contain_text("Stopped")
    await expect(tab.foot).to_contain_text(IDENTICAL)
    chat = await api.chat(chat_id)
    assert (chat["status"], chat["text"]) == ("cancelled", await tab.text())
    assert await simulator.outcome(key) == "client_closed"
    await expect(tab.button("Send")).to_be_visible()


async def test_escape_stops(visit, api):
    tab = await visit(fields=SLOW)
    chat_id = await tab.ask()
    await tab.until_text(20)
    await tab.page.keyboard.press("Escape")
    await api.chat_when(chat_id, "cancelled")


async def test_a_conversation_sends_what_was_said_before(visit, simulator, key):
    tab = await visit(fields={"deltas": ["first ", "answer"], "key": key})
    await tab.ask("one")
    await expect(tab.foot).to_contain_text(IDENTICAL)
    await tab.ask("two")
    await expect(tab.page.locator(".foot b")).to_have_text(["Nothing lost: identical to the log"] * 2)
    _, second = await simulator.requests(key)
    assert second["body"]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "two"},
    ]


async def test_a_conversation_is_there_after_a_reload(visit):
    tab = await visit(fields={"deltas": ["an ", "answer"]})
    await tab.ask("one")
    await expect(tab.foot).to_contain_text(IDENTICAL)
    await tab.ask("two")
    await expect(tab.foot).to_contain_text(IDENTICAL)
    await tab.page.reload()
    await expect(tab.page.locator(".question")).to_have_text(["one", "two"])
    await expect(tab.page.locator(".content")).to_have_text(["an answer", "an answer"])


async def test_a_new_chat_begins_empty_and_the_old_one_is_a_step_back(visit, api):
    tab = await visit(fields=SLOW)
    chat_id = await tab.ask("one")
    await tab.until_text(20)
    await tab.button("New chat").click()
    await expect(tab.page.locator(".turn")).to_have_count(0)
    await expect(tab.page.locator("#empty")).to_be_visible()
    await tab.page.go_back()
    await expect(tab.page.locator(".question")).to_have_text("one")
    await api.cancel(chat_id)
    await expect(tab.foot).to_contain_text("Stopped")
    assert await tab.text() == (await api.chat(chat_id))["text"]


async def test_shift_enter_starts_a_new_line(visit):
    tab = await visit(fields={"deltas": ["ok"]})
    await tab.input.fill("one")
    await tab.input.press("Shift+Enter")
    await tab.input.press_sequentially("two")
    assert tab.posts == []
    await tab.input.press("Enter")
    await expect(tab.foot).to_contain_text("Done")
    assert json.loads(tab.posts[0].post_data)["messages"][0]["content"] == "one\ntwo"


@pytest.mark.parametrize("composing", [{"isComposing": True}, {"keyCode": 229}])
async def test_the_enter_of_an_input_method_never_sends(visit, composing):
    tab = await visit(fields={"deltas": ["ok"]})
    await tab.input.fill("へんかん")
    dispatch = "(input, init) => input.dispatchEvent(new KeyboardEvent('keydown', init))"
    await tab.input.evaluate(dispatch, {"key": "Enter", "bubbles": True, "cancelable": True, **composing})
    await expect(tab.input).to_have_value("へんかん")
    assert tab.chat_id == ""
    await tab.input.press("Enter")
    await expect(tab.foot).to_contain_text("Done")
    assert len(tab.posts) == 1


async def test_nothing_that_was_written_becomes_markup(visit):
    attack = "<img src=x onerror=alert(1)><b>bold</b>"
    call = {"name": attack, "arguments": attack}
    tab = await visit(fields={"deltas": [attack], "reasoning": attack, "refusal": attack, "tool_calls": [call]})
    await tab.ask(attack)
    await expect(tab.foot).to_contain_text("Done")
    assert await tab.text() == attack
    await expect(tab.page.locator(".question")).to_have_text(attack)
    assert await tab.page.locator(".turn :is(img, .content b, .question b)").count() == 0
    assert tab.complaints == []


async def test_reasoning_is_folded_and_tool_calls_are_compact(visit):
    call = {"name": "look_up", "arguments": {"city": "京都"}}
    tab = await visit(fields={"reasoning": "Let me think.", "tool_calls": [call], "text": "Wait."})
    await tab.ask()
    await expect(tab.foot).to_contain_text("Done (tool_calls)")
    thoughts = tab.page.locator(".thoughts")
    await expect(thoughts).to_be_hidden()
    await tab.page.get_by_text("Reasoning", exact=True).click()
    await expect(thoughts).to_have_text("Let me think.")
    await expect(tab.page.locator(".call")).to_have_text('look_up({"city":"京都"})')


async def test_a_refusal_is_shown(visit):
    tab = await visit(fields={"refusal": "I would rather not."})
    await tab.ask()
    await expect(tab.page.locator(".refusal")).to_have_text("I would rather not.")


async def test_an_error_is_shown_and_can_be_tried_again(visit, key):
    fault = {"kind": "status", "status": 400, "message": "the upstream says no", "times": 1}
    tab = await visit(fields={"deltas": ["fine"], "fault": fault, "key": key})
    await tab.ask()
    await expect(tab.page.locator(".failure")).to_contain_text("the upstream says no")
    await expect(tab.foot).to_contain_text("Failed")
    await tab.button("Try again").click()
    await expect(tab.answer).to_have_text("fine")
    await expect(tab.page.locator(".failure")).to_be_hidden()
    await expect(tab.page.locator(".turn")).to_have_count(1)


async def test_what_the_api_refuses_is_explained(visit, start_stack):
    stack = start_stack(max_body=1000)
    tab = await visit(stack.apis[0].url)
    await tab.input.fill("x" * 2000)
    await tab.input.press("Enter")
    await expect(tab.page.locator(".failure")).to_contain_text("PIROPIRO_MAX_BODY")


async def test_a_place_in_the_queue_is_shown(visit, start_stack):
    tab = await visit(start_stack(workers=0).apis[0].url)
    await tab.ask()
    await expect(tab.fact("Status")).to_have_text("Queued, number 1 in line")
    await tab.button("Stop").click()
    await expect(tab.foot).to_contain_text("Stopped")


async def test_a_whole_visit_leaves_the_console_clean(visit):
    tab = await visit(fields={"deltas": numbered(100), "interval": 0.05})
    await tab.ask()
    await tab.until_text(20)
    await tab.button("Cut the connection").click()
    await tab.button("Reconnect").click()
    await expect(tab.foot).to_contain_text(IDENTICAL)
    await tab.button("Copy link").click()
    await expect(tab.button("Copied")).to_be_visible()
    await tab.page.reload()
    await expect(tab.foot).to_contain_text(IDENTICAL)
    assert tab.complaints == []


async def overflow(tab):
    return await tab.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
async def test_a_phone_shows_everything_in_its_width(visit, locale):
    long = {"deltas": ["https://example.com/" + "x" * 300, "\n"], "tokens": 2000, "interval": 0.03}
    tab = await visit(fields=long, locale=locale, **PHONE)
    assert await overflow(tab) == 0
    await tab.page.locator("#input").fill("y" * 200)
    await tab.page.locator("#input").press("Enter")
    await tab.until_text(300)
    await tab.page.locator("#more summary").click()
    await tab.page.locator("#cut").click()
    assert await overflow(tab) == 0
    for button in await tab.page.get_by_role("button").all():
        assert (await button.bounding_box())["height"] >= 40
    await tab.page.locator("#cut").click()
    await tab.page.locator("#stop").click()
    await expect(tab.foot.locator("b")).not_to_be_empty()
    assert await overflow(tab) == 0


async def test_a_japanese_browser_gets_japanese(visit):
    tab = await visit(locale="ja-JP")
    await expect(tab.button("送信")).to_be_visible()
    assert await tab.page.evaluate("document.documentElement.lang") == "ja"


async def scroll(tab):
    """How far the conversation is scrolled, and how far it is from its end."""
    measure = "({scrollTop: y, scrollHeight, clientHeight}) => [y, scrollHeight - clientHeight - y]"
    return await tab.page.locator("#scroller").evaluate(measure)


async def test_the_page_follows_the_answer_only_while_the_reader_is_at_its_end(visit):
    tab = await visit(fields={"deltas": ["a line\n"], "tokens": 1000, "interval": 0.03})
    await tab.ask()
    await tab.until_text(60 * 7)
    top, gap = await scroll(tab)
    assert top > 500
    assert gap < 48
    await tab.page.locator("#scroller").hover()
    await tab.page.mouse.wheel(0, -300)
    await expect(tab.button("Latest")).to_be_visible()
    top, _ = await scroll(tab)
    await tab.until_text(len(await tab.text()) + 70)
    assert (await scroll(tab))[0] == top
    await tab.button("Latest").click()
    await expect(tab.button("Latest")).to_be_hidden()
    assert (await scroll(tab))[1] < 48


async def test_a_screen_reader_hears_of_changes_and_not_of_letters(visit):
    tab = await visit(fields=SLOW)
    await tab.ask()
    await tab.until_text(20)
    assert await tab.page.locator("[aria-live], [role=log]").count() == 0
    await expect(tab.page.get_by_role("status")).to_have_text("Writing")
    await tab.button("Stop").click()
    await expect(tab.page.get_by_role("status")).to_contain_text("Stopped")
