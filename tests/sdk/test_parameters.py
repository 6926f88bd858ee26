"""What only an upstream that speaks Chat Completions has a word for, and what becomes of it before another."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

USER: Any = [{"role": "user", "content": "やっほ"}]


def scripted(**script: Any) -> dict[str, Any]:
    return {"simulator": {"ttft": 0, "interval": 0, **script}}


def text_of(chunks: list[Any], index: int) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


async def test_parameters_and_messages_reach_the_upstream_as_they_are(async_client: AsyncOpenAI, key, simulator):
    content: Any = [
        {"type": "text", "text": "What is in this picture? "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "text", "text": "Say it in one word."},
    ]
    await async_client.chat.completions.create(
        model="simulator",
        messages=[{"role": "system", "content": "短く。"}, {"role": "user", "content": content}],
        response_format={"type": "json_object"},
        top_p=0.5,
        seed=7,
        stop=["\n\n"],
        metadata={"who": "me"},
        extra_body={**scripted(key=key, text="{}"), "chat_template_kwargs": {"enable_thinking": False}},
    )
    body = (await simulator.request(key))["body"]
    assert body["messages"] == [{"role": "system", "content": "短く。"}, {"role": "user", "content": content}]
    assert body["response_format"] == {"type": "json_object"}
    assert (body["top_p"], body["seed"], body["stop"], body["metadata"]) == (0.5, 7, ["\n\n"], {"who": "me"})
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_several_choices(client: OpenAI):
    extra = scripted(deltas=["a", "b", "c"])
    whole = client.chat.completions.create(model="m", messages=USER, n=2, extra_body=extra)
    chunks = list(client.chat.completions.create(model="m", messages=USER, n=2, stream=True, extra_body=extra))
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(0, "abc"), (1, "abc")]
    assert [text_of(chunks, index) for index in (0, 1)] == ["abc", "abc"]
    finished = [(choice.index, choice.finish_reason) for chunk in chunks for choice in chunk.choices]
    assert finished.count((0, "stop")) == finished.count((1, "stop")) == 1


@pytest.mark.parametrize("upstream", ["responses"])
@pytest.mark.parametrize(("name", "value"), [("n", 2), ("stop", ["a"]), ("seed", 7), ("frequency_penalty", 0.5)])
def test_what_responses_have_no_word_for_is_refused_by_its_name(client: OpenAI, upstream, name, value):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=USER, extra_body={name: value})
    assert caught.value.param == name
