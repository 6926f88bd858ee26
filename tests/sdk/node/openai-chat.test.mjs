// Chat Completions through the official SDK for Node, unmodified, with the flows that its documentation shows.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { collect, numbered, scripted, url } from "./piropiro.mjs";

const messages = [{ role: "user", content: "やっほ" }];
const ask = { model: "simulator", messages };

const client = (...scripts) =>
  new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0, timeout: 30_000, fetch: scripted(...scripts) });

test("a completion", async () => {
  const completion = await client({ text: "ピロ ピロ" }).chat.completions.create(ask);
  assert.equal(completion.choices[0].message.content, "ピロ ピロ");
  assert.equal(completion.choices[0].finish_reason, "stop");
});

test("a stream", async () => {
  const stream = await client({ deltas: numbered(50) }).chat.completions.create({
    ...ask,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await collect(stream);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, numbered(50).join(""));
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.equal(chunks.at(-1).usage.completion_tokens, 50);
  assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
});

test("several choices", async () => {
  const completion = await client({ text: "abc" }).chat.completions.create({ ...ask, n: 2 });
  assert.deepEqual(
    completion.choices.map((choice) => choice.message.content),
    ["abc", "abc"],
  );
});

test("the streaming helper emits its events", async () => {
  const stream = client({ deltas: ["や", "っ", "ほ"] }).chat.completions.stream(ask);
  const snapshots = [];
  stream.on("content", (delta, snapshot) => delta && snapshots.push(snapshot));
  const completion = await stream.finalChatCompletion();
  assert.deepEqual(snapshots, ["や", "やっ", "やっほ"]);
  assert.equal(completion.choices[0].message.content, await stream.finalContent());
  assert.equal((await stream.finalMessage()).content, "やっほ");
});

test("the streaming helper gathers parallel tool calls, log probabilities and refusals", async () => {
  const tool_calls = [
    { name: "get_weather", arguments: { city: "京都" } },
    { name: "get_time", arguments: { zone: "Asia/Tokyo" } },
  ];
  const called = await client({ tool_calls, fragment: 7 }).chat.completions.stream(ask).finalChatCompletion();
  assert.deepEqual(
    called.choices[0].message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    tool_calls.map((call) => [call.name, call.arguments]),
  );
  const sure = await client({ text: "やっほ" })
    .chat.completions.stream({ ...ask, logprobs: true })
    .finalChatCompletion();
  assert.equal(sure.choices[0].logprobs.content.map((entry) => entry.token).join(""), "やっほ");
  const refused = await client({ refusal: "いいえ。" }).chat.completions.stream(ask).finalChatCompletion();
  assert.equal(refused.choices[0].message.refusal, "いいえ。");
});

for (const stream of [false, true]) {
  test(`runTools calls functions until there is an answer, stream: ${stream}`, async () => {
    const asked = [];
    const getWeather = ({ city }) => {
      asked.push(city);
      return { city, sky: "clear" };
    };
    const tool_calls = ["京都", "東京"].map((city) => ({ name: "get_weather", arguments: { city } }));
    const runner = client({ tool_calls }, { text: "どちらも晴れです。" }).chat.completions.runTools({
      ...ask,
      stream,
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            function: getWeather,
            parse: JSON.parse,
            parameters: { type: "object", properties: { city: { type: "string" } } },
          },
        },
      ],
    });
    const results = [];
    runner.on("functionToolCallResult", (result) => results.push(JSON.parse(result)));
    assert.equal(await runner.finalContent(), "どちらも晴れです。");
    assert.deepEqual(asked, ["京都", "東京"]);
    assert.deepEqual(
      results.map((result) => result.city),
      ["京都", "東京"],
    );
  });
}

test("structured output is parsed", async () => {
  const Answer = z.object({ steps: z.array(z.string()), final: z.string() });
  const answer = { steps: ["1 + 2"], final: "三" };
  const completion = await client({ text: JSON.stringify(answer) }).chat.completions.parse({
    ...ask,
    response_format: zodResponseFormat(Answer, "answer"),
  });
  assert.deepEqual(completion.choices[0].message.parsed, answer);
  const called = await client({ tool_calls: [{ name: "answer", arguments: answer }] }).chat.completions.parse({
    ...ask,
    tools: [zodFunction({ name: "answer", parameters: Answer })],
  });
  assert.deepEqual(called.choices[0].message.tool_calls[0].function.parsed_arguments, answer);
});

test("a stream passes through toReadableStream and comes out the same", async () => {
  const stream = client({ text: "やっほ" }).chat.completions.stream(ask);
  const { ChatCompletionStream } = await import("openai/lib/ChatCompletionStream");
  const copy = ChatCompletionStream.fromReadableStream(stream.toReadableStream());
  assert.equal(await copy.finalContent(), "やっほ");
});

test("the raw response has headers", async () => {
  const { data, response } = await client({ text: "a" }).chat.completions.create(ask).withResponse();
  assert.equal(data.choices[0].message.content, "a");
  assert.match(response.headers.get("content-type"), /^application\/json/);
  assert.match(response.headers.get("x-chat-id"), /^chat_/);
});

test("models", async () => {
  const names = (await collect(client({}).models.list())).map((model) => model.id);
  assert.ok(names.includes("simulator"));
  assert.equal((await client({}).models.retrieve("simulator")).id, "simulator");
  await assert.rejects(client({}).models.retrieve("nobody/knows"), OpenAI.NotFoundError);
});

const failing = (status) => ({ fault: { kind: "status", status, code: "no", message: "no", retry_after: 0.01 } });

for (const [name, script, params, class_, status] of [
  ["a bad request of ours", {}, { messages: "no list" }, OpenAI.BadRequestError, 400],
  ["a bad request of the upstream's", { tokns: 1 }, {}, OpenAI.BadRequestError, 400],
  ["a model that is not there", {}, { model: "missing-model" }, OpenAI.NotFoundError, 404],
  ["the operator's key", failing(401), {}, OpenAI.InternalServerError, 502],
  ["a rate limit", failing(429), {}, OpenAI.RateLimitError, 429],
]) {
  for (const stream of [false, true]) {
    test(`${name} is the SDK's own error, stream: ${stream}`, async () => {
      await assert.rejects(client(script).chat.completions.create({ ...ask, stream, ...params }), (error) => {
        assert.ok(error instanceof class_, String(error));
        assert.equal(error.status, status);
        return true;
      });
    });
  }
}

test("a stream that fails midway throws", async () => {
  const fault = { kind: "error", after: 2, message: "oops" };
  const failed = client({ ...failing(400), deltas: ["a", "b", "c"], fault });
  let text = "";
  const read = async () => {
    const stream = await failed.chat.completions.create(
      { ...ask, stream: true },
      { headers: { "X-Piropiro-On-Worker-Loss": "fail" } },
    );
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  };
  await assert.rejects(read, (error) => {
    assert.ok(error instanceof OpenAI.APIError, String(error));
    return true;
  });
  assert.equal(text, "ab");
});
