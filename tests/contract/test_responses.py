"""`/v1/responses` as OpenAI's own client sees it."""

import asyncio
import json

import openai
import pytest
from harness.openai_client import scripted
from harness.polling import wait_until
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

EVENT = TypeAdapter(ResponseStreamEvent)
TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALLS = [{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "add", "arguments": {"a": 3, "b": 4}}]


def asking(script=None, **fields):
    return {"model": "any", "input": "hi", "extra_body": scripted(script), **fields}


async def events_of(stream):
    events = [event async for event in stream]
    for event in events:
        EVENT.validate_json(event.to_json(), strict=True)
    return events


def text_of(events):
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def numbers(events):
    return [event.sequence_number for event in events]


def as_json(events):
    return [event.to_dict() for event in events]


async def until_status(client, response_id, *statuses):
    async def has_status():
        response = await client.responses.retrieve(response_id)
        return response if response.status in statuses else None

    return await wait_until(has_status)


@pytest.fixture
def client(openai_client):
    return openai_client


@pytest.fixture
def other(other_openai_client):
    return other_openai_client


async def test_a_response_in_one_piece(client):
    response = await client.responses.create(**asking({"text": "Hello there"}, instructions="Be brief."))
    assert isinstance(response, Response)
    assert (response.status, response.output_text) == ("completed", "Hello there")
    assert (response.model, response.instructions, response.background) == ("any", "Be brief.", False)
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.completed_at >= response.created_at


async def test_the_simplest_call_has_a_default_model_and_an_answer(client):
    response = await client.responses.create(input="やっほ", model="gpt-4o-mini")
    assert response.output_text


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_has_openais_order_and_ends_with_the_whole(client, background):
    stream = await client.responses.create(**asking({"deltas": ["a", "b"]}, stream=True, background=background))
    events = await events_of(stream)
    opening = ["response.created", *["response.queued"] * background, "response.in_progress"]
    assert [event.type for event in events] == [
        *opening,
        *("response.output_item.added", "response.content_part.added"),
        *("response.output_text.delta", "response.output_text.delta"),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    assert numbers(events) == list(range(len(events)))
    assert events[-1].response.output_text == text_of(events) == "ab"


async def test_the_streaming_helper_works(client):
    async with client.responses.stream(**asking({"deltas": ["a", "b"], "reasoning": "Hm."})) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert snapshots == ["a", "ab"]
    assert final.output_text == "ab"
    assert final.output[0].type == "reasoning"
    assert "".join(part.text for part in final.output[0].content) == "Hm."


async def test_reasoning_comes_as_a_summary_where_one_was_asked_for(client):
    script = {"text": "a", "reasoning": "Hm, well."}
    events = await events_of(
        await client.responses.create(**asking(script, stream=True, reasoning={"effort": "low", "summary": "auto"}))
    )
    told = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    (summary,) = events[-1].response.output[0].summary
    assert "".join(told) == summary.text == "Hm, well."


class Sum(BaseModel):
    """A structured answer."""

    a: int


async def test_structured_output_is_parsed(client, simulator, key):
    script = {"text": '{"a": 1}', "key": key}
    response = await client.responses.parse(**asking(script, text_format=Sum))
    assert response.output_parsed == Sum(a=1)
    sent = (await simulator.request(key))["body"]["response_format"]
    assert sent["json_schema"]["strict"] is True
    async with client.responses.stream(**asking(script, text_format=Sum)) as stream:
        assert (await stream.get_final_response()).output_parsed == Sum(a=1)


@pytest.mark.parametrize("background", [False, True])
async def test_parallel_calls_and_their_outputs(client, simulator, key, background):
    first = await client.responses.create(
        **asking({"tool_calls": CALLS}, tools=[TOOL], background=background, stream=True)
    )
    events = await events_of(first)
    response = events[-1].response
    calls = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert all(call.name == "add" and call.status == "completed" for call in calls)
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [call.arguments for call in calls]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "3"} for call in calls]
    final = await client.responses.create(
        **asking({"text": "Seven", "key": key}, input=outputs, tools=[TOOL], previous_response_id=response.id)
    )
    assert final.output_text == "Seven"
    sent = (await simulator.request(key))["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == [call.call_id for call in calls]


async def test_tool_loops_without_stored_state_send_the_output_back(client, simulator, key):
    question = {"role": "user", "content": "1 + 2?"}
    script = {"tool_calls": CALLS[:1], "reasoning": "Adding."}
    first = await client.responses.create(**asking(script, input=[question], tools=[TOOL], store=False))
    call = first.output[-1]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    items = [question, *(item.to_dict() for item in first.output), output]
    await client.responses.create(**asking({"text": "3", "key": key}, input=items, tools=[TOOL], store=False))
    sent = (await simulator.request(key))["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["reasoning_content"] == "Adding."


async def test_items_can_be_referred_to(client, other, simulator, key):
    first = await client.responses.create(**asking({"tool_calls": CALLS[:1], "text": "Adding."}, tools=[TOOL]))
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    output = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "3"}
    items = [{"role": "user", "content": "1 + 2?"}, *references, output]
    await other.responses.create(**asking({"text": "3", "key": key}, input=items, tools=[TOOL]))
    sent = (await simulator.request(key))["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert (sent[1]["content"], len(sent[1]["tool_calls"])) == ("Adding.", 1)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.create(**asking(input=items, tools=[TOOL]))
    assert (caught.value.param, caught.value.code) == ("input[1].id", "item_not_found")


async def test_a_conversation_goes_on_without_the_instructions_of_before(client, simulator, key):
    first = await client.responses.create(**asking({"text": "One"}, instructions="First.", input="1?"))
    second = await client.responses.create(
        **asking({"text": "Two"}, instructions="Second.", input="2?", previous_response_id=first.id)
    )
    third = await client.responses.create(
        **asking({"text": "Three", "key": key}, input="3?", previous_response_id=second.id)
    )
    assert third.previous_response_id == second.id
    sent = (await simulator.request(key))["body"]["messages"]
    assert [(message["role"], message["content"]) for message in sent] == [
        *(("user", "1?"), ("assistant", "One"), ("user", "2?"), ("assistant", "Two"), ("user", "3?")),
    ]
    listed = [item async for item in client.responses.input_items.list(third.id, order="asc", limit=2)]
    assert [item.content[0].text for item in listed] == ["1?", "One", "2?", "Two", "3?"]


@pytest.mark.parametrize("store", [True, False])
async def test_an_unknown_previous_response_is_400(client, store):
    previous = "resp_abcdefghijklmnopqrst"
    if not store:
        previous = (await client.responses.create(**asking({"text": "a"}, store=False))).id
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**asking(previous_response_id=previous))
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_a_previous_response_that_still_runs_is_400(client):
    running = await client.responses.create(**asking({"ttft": 30}, background=True))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(**asking(previous_response_id=running.id))
    assert caught.value.code == "previous_response_not_ready"
    await client.responses.cancel(running.id)


async def test_polling_a_background_response_shows_what_there_is(client):
    created = await client.responses.create(**asking({"deltas": ["a", "b", "c"], "interval": 0.3}, background=True))
    assert created.status in ("queued", "in_progress")
    assert created.background is True

    async def has_some():
        response = await client.responses.retrieve(created.id)
        return response if response.output else None

    partial = await wait_until(has_some)
    assert "abc".startswith(partial.output_text)
    ended = await until_status(client, created.id, "completed")
    assert ended.output_text == "abc"


async def test_any_starting_after_gives_the_rest_on_any_replica(client, other):
    script = {"deltas": ["a", "b"], "reasoning": "Hm."}
    events = await events_of(await client.responses.create(**asking(script, stream=True, background=True)))
    response_id = events[0].response.id
    for after in (None, *numbers(events)):
        options = {} if after is None else {"starting_after": after}
        rest = await events_of(await other.responses.retrieve(response_id, stream=True, **options))
        assert as_json(rest) == as_json(events)[0 if after is None else after + 1 :]


async def test_the_helper_resumes_by_replaying(client, other):
    async with client.responses.stream(**asking({"deltas": ["a", "b", "c"]}, background=True)) as stream:
        async for event in stream:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                break
    async with other.responses.stream(response_id=response_id, starting_after=event.sequence_number) as rest:
        events = [event async for event in rest]
        final = await rest.get_final_response()
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["b", "c"]
    assert final.output_text == "abc"


async def test_only_background_responses_can_be_streamed_again(client):
    response = await client.responses.create(**asking({"text": "a"}))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.retrieve(response.id, stream=True)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "stream")
    assert (await client.responses.retrieve(response.id)).output_text == "a"


@pytest.mark.parametrize("background", [False, True])
async def test_cancelling_ends_the_stream_and_is_idempotent(client, other, background):
    script = {"deltas": ["a", *["b"] * 500], "interval": 0.05}
    stream = await client.responses.create(**asking(script, stream=True, background=background))
    events, cancelled = [], None
    async for event in stream:
        events.append(event)
        if event.type == "response.output_text.delta" and cancelled is None:
            cancelled = await other.responses.cancel(events[0].response.id)
    assert cancelled.status == "cancelled"
    assert events[-1].type == "response.incomplete"
    assert (events[-1].response.status, events[-1].response.output_text) == ("cancelled", text_of(events))
    again = await client.responses.cancel(cancelled.id)
    assert again.to_dict() == cancelled.to_dict() == (await client.responses.retrieve(cancelled.id)).to_dict()


async def test_cancelling_what_is_complete_changes_nothing(client):
    response = await client.responses.create(**asking({"text": "a"}, background=True))
    await until_status(client, response.id, "completed")
    assert (await client.responses.cancel(response.id)).status == "completed"


async def test_the_helper_survives_a_cancelled_response(client):
    async with client.responses.stream(**asking({"ttft": 30}, background=True)) as stream:
        types = []
        async for event in stream:
            types.append(event.type)
            if event.type == "response.in_progress":
                await client.responses.cancel(event.response.id)
    assert types[-1] == "response.incomplete"


async def test_a_deleted_response_is_gone(client, api):
    response = await client.responses.create(**asking({"text": "a"}))
    answer = await api.http.delete(f"/v1/responses/{response.id}")
    assert answer.json() == {"id": response.id, "object": "response", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(response.id)


async def test_deleting_ends_what_is_generated(client, simulator, key):
    response = await client.responses.create(**asking({"ttft": 30, "key": key}, background=True))
    await until_status(client, response.id, "in_progress")
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)

    async def nothing_runs():
        return not await simulator.running(key)

    await wait_until(nothing_runs)


async def test_what_is_not_stored_cannot_be_asked_for(client, api):
    raw = await client.responses.with_raw_response.create(**asking({"text": "a"}, store=False))
    response = raw.parse()
    assert response.output_text == "a"
    for method in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await method(response.id)
    assert (await api.chat(raw.headers["x-chat-id"]))["text"] == "a"


async def test_the_chat_behind_a_response_is_named(client, api):
    raw = await client.responses.with_raw_response.create(**asking({"text": "a"}))
    chat = await api.chat(raw.headers["x-chat-id"])
    assert (chat["text"], chat["id"].removeprefix("chat_")) == ("a", raw.parse().id.removeprefix("resp_"))


async def test_a_chat_of_another_surface_is_no_response(client, api):
    chat = await api.create({"messages": [{"role": "user", "content": "hi"}]})
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(chat["id"].replace("chat_", "resp_"))


@pytest.mark.parametrize("response_id", ["resp_abcdefghijklmnopqrst", "resp_", "x", "resp_%F0%9F%98%80"])
async def test_an_unknown_response_is_404(client, response_id):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(response_id)
    assert caught.value.type == "invalid_request_error"


async def test_an_idempotency_key_gives_the_first_response_again(client, other, simulator, key):
    options = {**asking({"text": "a", "key": key}), "extra_headers": {"Idempotency-Key": key}}
    first, second = await asyncio.gather(client.responses.create(**options), other.responses.create(**options))
    assert first.to_dict() == second.to_dict()
    await simulator.request(key)
    with pytest.raises(openai.UnprocessableEntityError):
        await client.responses.create(**{**options, "input": "another"})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_upstream_is_an_http_error(client, stream):
    fault = {"kind": "status", "status": 400, "message": "No such thing.", "code": "no_such_thing"}
    with pytest.raises(openai.BadRequestError, match="No such thing") as caught:
        await client.responses.create(**asking({"fault": fault}, stream=stream))
    assert caught.value.code == "no_such_thing"


async def test_a_refusal_is_a_failed_response_in_the_background(client):
    fault = {"kind": "status", "status": 400, "message": "No such thing."}
    events = await events_of(await client.responses.create(**asking({"fault": fault}, stream=True, background=True)))
    assert events[-1].type == "response.failed"
    assert "No such thing." in events[-1].response.error.message
    response = await client.responses.retrieve(events[0].response.id)
    assert response.status == "failed"


async def test_a_failure_in_the_middle_is_a_failed_response(client):
    fault = {"kind": "error", "after": 1, "message": "It broke.", "type": "invalid_request_error"}
    stream = await client.responses.create(**asking({"deltas": ["a", "b"], "fault": fault}, stream=True))
    events = await events_of(stream)
    assert (text_of(events), events[-1].type) == ("a", "response.failed")
    response = events[-1].response
    assert (response.status, response.error.code, response.error.message) == ("failed", "invalid_prompt", "It broke.")
    assert response.output[0].status == "incomplete"
    assert (await client.responses.retrieve(response.id)).to_dict() == response.to_dict()


async def test_a_failure_in_the_middle_is_an_http_error_for_who_waits_for_the_whole(client):
    fault = {"kind": "error", "after": 1, "message": "It broke.", "type": "invalid_request_error"}
    with pytest.raises(openai.BadRequestError, match="It broke"):
        await client.responses.create(**asking({"deltas": ["a", "b"], "fault": fault}))


@pytest.mark.parametrize(
    ("finish_reason", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_an_unfinished_answer_is_incomplete(client, finish_reason, reason):
    response = await client.responses.create(**asking({"text": "a", "finish_reason": finish_reason}))
    assert (response.status, response.incomplete_details.reason) == ("incomplete", reason)


async def test_max_output_tokens_reaches_the_upstream(client):
    response = await client.responses.create(**asking({"deltas": ["a", "b", "c"]}, max_output_tokens=2))
    assert (response.status, response.output_text) == ("incomplete", "ab")


async def test_a_refusal_of_the_model_is_a_part_of_its_own(client):
    response = await client.responses.create(**asking({"refusal": "I won't."}))
    (part,) = response.output[0].content
    assert (part.type, part.refusal) == ("refusal", "I won't.")


async def test_logprobs_are_shown_where_they_were_asked_for(client):
    response = await client.responses.create(**asking({"deltas": ["a"]}, include=["message.output_text.logprobs"]))
    assert [logprob.token for logprob in response.output[0].content[0].logprobs] == ["a"]
    response = await client.responses.create(**asking({"deltas": ["a"]}))
    assert response.output[0].content[0].logprobs == []


@pytest.mark.parametrize("name", ["conversation", "prompt", "max_tool_calls", "x_unknown", "messages"])
async def test_what_is_not_supported_is_400_and_named(client, name):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="any", input="hi", extra_body={name: 1})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"starting_after": 1}, "starting_after"),
        ({"stream": "true", "starting_after": -1}, "starting_after"),
        ({"stream": "perhaps"}, "stream"),
        ({"include": "x"}, "include"),
        ({"include[]": "x"}, "include"),
        ({"x": 1}, "x"),
    ],
)
async def test_a_bad_query_is_400_and_named(client, api, query, param):
    answer = await api.http.get("/v1/responses/resp_abcdefghijklmnopqrst", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_the_include_of_a_get_is_accepted(client):
    response = await client.responses.create(**asking({"text": "a"}))
    assert await client.responses.retrieve(response.id, include=["message.output_text.logprobs"])


async def test_a_stream_has_no_ids_and_its_comments_dispatch_nothing(talkative, connect, connect_openai):
    api, client = connect(talkative.apis[0].url), connect_openai(talkative.apis[0].url)
    body = {"input": "hi", "stream": True, "background": True, **scripted({"deltas": ["a"], "ttft": 1.5})}
    async with api.open("POST", "/v1/responses", json=body) as reading:
        assert reading.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reading.response.headers["x-chat-id"].startswith("chat_")
        await reading.rest()
    assert reading.comments
    assert all(event.id is None and event.name == event.json["type"] for event in reading.events)
    stream = await client.responses.create(
        model="any", input="hi", stream=True, extra_body=scripted({"deltas": ["a"], "ttft": 1.5})
    )
    assert text_of(await events_of(stream)) == "a"


@pytest.fixture(scope="module")
def waiting_room(start_module_stack):
    """A replica without workers."""
    return start_module_stack(workers=0, max_queue=1, keepalive=0.2, max_body=1000)


async def test_a_response_in_the_queue_is_queued_and_the_next_is_refused(waiting_room, connect_openai):
    client = connect_openai(waiting_room.apis[0].url)
    stream = await client.responses.create(model="any", input="hi", background=True, stream=True)
    events = [await anext(aiter(stream)) for _ in range(2)]
    assert [event.type for event in events] == ["response.created", "response.queued"]
    response_id = events[0].response.id
    assert (await client.responses.retrieve(response_id)).status == "queued"
    with pytest.raises(openai.RateLimitError) as caught:
        await client.responses.create(model="any", input="hi")
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("queue_full", "1")
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.create(model="any", input="x" * 1000)
    assert caught.value.status_code == 413
    await client.responses.cancel(response_id)
    rest = await events_of(stream)
    assert [(event.type, event.response.status) for event in rest] == [("response.incomplete", "cancelled")]


async def test_who_waits_in_the_queue_for_long_gets_a_stream_that_is_alive(waiting_room, connect):
    api = connect(waiting_room.apis[0].url)
    body = {"input": "hi", "stream": True}
    async with api.open("POST", "/v1/responses", json=body) as reading:
        await reading.until(lambda reading: len(reading.comments) >= 2)
        assert [event.name for event in reading.events] == ["response.created"]
        assert (await api.http.post(f"/v1/responses/{reading.events[0].json['response']['id']}/cancel")).is_success
        await reading.rest()
    assert reading.events[-1].json["response"]["status"] == "cancelled"
