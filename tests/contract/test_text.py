"""Whatever text the upstream says, a reader gets: folded to LF in text format, without loss in JSON."""

import re

import pytest
from harness.client import body
from harness.sse import decode_by_oracle, decoded, json_text_of, text_of

AWKWARD = {
    "leading and trailing spaces": [" a", "  b  ", " ", "   ", "c "],
    "line feeds": ["a\n", "\n", "\n\n", "b\nc", "\nd"],
    "emoji": ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇯🇵", "e\u0301"],
    "separators that are no line ends": ["a\u2028b", "\u2029", "c\u0085d", "\u000b\u000c", "\x1c\x1e"],
    "control characters": ["a\x00b", "\x00", "\x07\x1b[31m\x7f", "\ufeff", "\ufffe"],
    "empty deltas": ["", "a", "", "", "b", ""],
    "one long delta": ["ピ" * 21_845 + "!"],
    "text that looks like events": [
        "event: done\ndata: [DONE]\n\n",
        "data: [DONE]",
        "\n\n",
        "id: 1",
        "retry: 1",
        ": keep-alive\n",
        "[CANCELLED]",
    ],
    "text that looks like JSON": ['{"error": null}', "\\n\\u0041", '"', "\\"],
    "right to left and beyond the first plane": ["שלום", "\u202e", "𝒳", "\U0010ffff"],
}
WITH_CARRIAGE_RETURNS = {
    "CR": ["a\rb", "\r", "c\r"],
    "CRLF": ["a\r\nb", "\r\n", "\r\n\r\n", "c\r\n"],
    "CRLF torn between deltas": ["a\r", "\nb", "\r", "\r\n", "\n\r"],
    "all in one": ["\n\r\r\n\n", " \r \n \r\n "],
}


def folded(delta: str) -> str:
    return re.sub(r"\r\n?", "\n", delta)


@pytest.mark.parametrize("deltas", AWKWARD.values(), ids=AWKWARD.keys())
async def test_text_format_gives_the_text_that_was_said(api, deltas):
    reading = await api.ask(body({"deltas": deltas}))
    assert [event.data for event in reading.events[:-1]] == [delta for delta in deltas if delta]
    assert decode_by_oracle(reading.received) == decoded(reading.events)


@pytest.mark.parametrize("deltas", WITH_CARRIAGE_RETURNS.values(), ids=WITH_CARRIAGE_RETURNS.keys())
async def test_text_format_folds_carriage_returns_delta_by_delta(api, deltas):
    reading = await api.ask(body({"deltas": deltas}))
    assert text_of(reading.events) == "".join(map(folded, deltas))
    assert [event.data for event in reading.events[:-1]] == list(map(folded, deltas))


@pytest.mark.parametrize(
    "deltas", [*AWKWARD.values(), *WITH_CARRIAGE_RETURNS.values()], ids=[*AWKWARD, *WITH_CARRIAGE_RETURNS]
)
async def test_json_format_is_lossless(api, deltas):
    reading = await api.ask(body({"deltas": deltas}), form="json")
    said = [event.json for event in reading.events if event.name == "delta"]
    assert said == [{"role": "assistant", "content": ""}, *({"content": delta} for delta in deltas), {}]
    assert (await api.chat(reading.chat_id))["text"] == json_text_of(reading.events) == "".join(deltas)


async def test_each_line_of_a_delta_is_a_data_line_with_a_space(api):
    reading = await api.ask(body({"deltas": ["a\n\nb\n"]}))
    event_id = reading.events[0].id
    assert reading.events[0].raw.decode() == f"id: {event_id}\ndata: a\ndata: \ndata: b\ndata: \n\n"


async def test_a_delta_that_is_a_line_feed_is_two_empty_data_lines(api):
    reading = await api.ask(body({"deltas": ["\n"]}))
    assert reading.events[0].raw.decode() == f"id: {reading.events[0].id}\ndata: \ndata: \n\n"
