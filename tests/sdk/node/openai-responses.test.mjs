// Responses through the official SDK for Node, unmodified, with the flows that its documentation shows.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { collect, numbered, otherUrl, scripted, url } from "./piropiro.mjs";

const ask = { model: "simulator", input: "やっほ" };
const tools = [
  {
    type: "function",
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    strict: false,
  },
];

const clientOf = (baseURL, ...scripts) =>
  new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0, timeout: 30_000, fetch: scripted(...scripts) });
const client = (...scripts) => clientOf(url, ...scripts);
const other = clientOf(otherUrl, {});

const textOf = (events) =>
  events
    .filter((event) => event.type === "response.output_text.delta")
    .map((event) => event.delta)
    .join("");

test("a response", async () => {
  const response = await client({ text: "ピロ ピロ" }).responses.create(ask);
  assert.equal(response.output_text, "ピロ ピロ");
  assert.equal(response.status, "completed");
});

test("a stream", async () => {
  const events = await collect(await client({ deltas: numbered(20) }).responses.create({ ...ask, stream: true }));
  assert.deepEqual(
    events.map((event) => event.sequence_number),
    events.map((_, number) => number),
  );
  assert.equal(textOf(events), numbered(20).join(""));
  assert.equal(events.at(-1).type, "response.completed");
});

test("a background response is polled", async () => {
  const api = client({ deltas: numbered(20), interval: 0.01 });
  let response = await api.responses.create({ ...ask, background: true });
  while (["queued", "in_progress"].includes(response.status)) response = await other.responses.retrieve(response.id);
  assert.equal(response.output_text, numbered(20).join(""));
});

for (const cut of [1, 3, 6, 17, 33]) {
  test(`a stream cut after ${cut} events goes on exactly on another replica`, async () => {
    const stream = await client({ deltas: numbered(30), interval: 0.01 }).responses.create({
      ...ask,
      background: true,
      stream: true,
    });
    const kept = [];
    for await (const event of stream) {
      kept.push(event);
      if (kept.length === cut) break;
    }
    const { id } = kept[0].response;
    const starting_after = kept.at(-1).sequence_number;
    const rest = await collect(await other.responses.retrieve(id, { stream: true, starting_after }));
    assert.equal(textOf([...kept, ...rest]), numbered(30).join(""));
    assert.deepEqual([...kept, ...rest], await collect(await client({}).responses.retrieve(id, { stream: true })));
  });
}

test("the streaming helper accumulates, and goes on with a response that it did not create", async () => {
  const stream = client({ deltas: numbered(30), interval: 0.01 }).responses.stream({ ...ask, background: true });
  const kept = [];
  for await (const event of stream) {
    kept.push(event);
    if (kept.length === 12) break;
  }
  const response_id = kept[0].response.id;
  const starting_after = kept.at(-1).sequence_number;
  const resumed = other.responses.stream({ response_id, starting_after });
  const rest = [];
  resumed.on("event", (event) => rest.push(event));
  const final = await resumed.finalResponse();
  assert.equal(final.output_text, numbered(30).join(""));
  assert.equal(textOf([...kept, ...rest]), numbered(30).join(""));
});

test("a cancelled stream ends", async () => {
  const stream = await client({ tokens: 10_000, interval: 0.02 }).responses.create({
    ...ask,
    background: true,
    stream: true,
  });
  const events = [];
  for await (const event of stream) {
    events.push(event);
    if (events.length === 8) assert.equal((await other.responses.cancel(events[0].response.id)).status, "cancelled");
  }
  assert.equal(events.at(-1).type, "response.incomplete");
  assert.equal(events.at(-1).response.status, "cancelled");
});

test("a deleted response is not found", async () => {
  const { id } = await client({ text: "a" }).responses.create(ask);
  await other.responses.delete(id);
  await assert.rejects(other.responses.retrieve(id), OpenAI.NotFoundError);
});

test("a conversation with a tool goes on from the previous response", async () => {
  const api = client({ tool_calls: [{ name: "get_weather", arguments: { city: "京都" } }] }, { text: "晴れです。" });
  const asked = await api.responses.create({ ...ask, tools });
  const [call] = asked.output;
  assert.deepEqual([call.type, call.name, JSON.parse(call.arguments)], ["function_call", "get_weather", { city: "京都" }]);
  const answer = await api.responses.create({
    model: "simulator",
    tools,
    previous_response_id: asked.id,
    input: [{ type: "function_call_output", call_id: call.call_id, output: "clear" }],
  });
  assert.equal(answer.output_text, "晴れです。");
});

test("structured output is parsed", async () => {
  const Fair = z.object({ name: z.string(), date: z.string() });
  const fair = { name: "Science Fair", date: "Friday" };
  const params = { ...ask, text: { format: zodTextFormat(Fair, "fair") } };
  const api = client({ text: JSON.stringify(fair) });
  assert.deepEqual((await api.responses.parse(params)).output_parsed, fair);
  assert.deepEqual((await api.responses.stream(params).finalResponse()).output_parsed, fair);
});

test("errors are the SDK's own", async () => {
  await assert.rejects(client({}).responses.create({ ...ask, truncation: "auto" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, String(error));
    assert.equal(error.param, "truncation");
    return true;
  });
  await assert.rejects(other.responses.retrieve(`resp_${"a".repeat(20)}`), OpenAI.NotFoundError);
});
