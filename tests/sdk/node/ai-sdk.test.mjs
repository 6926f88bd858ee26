// Vercel's AI SDK, unmodified: its OpenAI-compatible provider on Chat Completions, its OpenAI provider on Responses.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { collect, numbered, scripted, url } from "./piropiro.mjs";

const compatible = (...scripts) =>
  createOpenAICompatible({
    name: "piropiro",
    baseURL: url,
    apiKey: "unused",
    fetch: scripted(...scripts),
    includeUsage: true,
    supportsStructuredOutputs: true,
  })("simulator");
const responses = (...scripts) =>
  createOpenAI({ baseURL: url, apiKey: "unused", fetch: scripted(...scripts) }).responses("simulator");

const weather = (asked) =>
  tool({
    description: "The weather in a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return { city, sky: "clear" };
    },
  });
const tool_calls = ["京都", "東京"].map((city) => ({ name: "weather", arguments: { city } }));

for (const [name, model] of Object.entries({ compatible, responses })) {
  const common = { prompt: "やっほ", maxRetries: 0 };

  test(`${name}: generateText`, async () => {
    const { text, finishReason, usage } = await generateText({ ...common, model: model({ text: "ピロ ピロ" }) });
    assert.equal(text, "ピロ ピロ");
    assert.equal(finishReason, "stop");
    assert.ok(usage.outputTokens > 0);
  });

  test(`${name}: streamText`, async () => {
    const result = streamText({ ...common, model: model({ deltas: numbered(40) }) });
    assert.deepEqual(await collect(result.textStream), numbered(40));
    assert.equal(await result.finishReason, "stop");
    assert.equal((await result.usage).outputTokens, 40);
  });

  test(`${name}: reasoning`, async () => {
    const script = { reasoning: "よく考える。", text: "はい。" };
    // On Responses it knows reasoning summaries alone, and asks for them only if the model is one that reasons.
    const providerOptions = { openai: { forceReasoning: true, reasoningSummary: "auto" } };
    const result = streamText({ ...common, providerOptions, model: model(script) });
    const parts = await collect(result.fullStream);
    const said = (type) =>
      parts
        .filter((part) => part.type === type)
        .map((part) => part.text)
        .join("");
    assert.equal(said("text-delta"), "はい。");
    assert.equal(said("reasoning-delta"), "よく考える。");
    const whole = await generateText({ ...common, providerOptions, model: model(script) });
    assert.equal(whole.reasoningText, "よく考える。");
  });

  test(`${name}: tools in a loop, streamed`, async () => {
    const asked = [];
    const result = streamText({
      ...common,
      model: model({ text: "見てみます。", tool_calls }, { text: "どちらも晴れです。" }),
      tools: { weather: weather(asked) },
      stopWhen: stepCountIs(3),
    });
    const parts = await collect(result.fullStream);
    assert.deepEqual(
      parts.filter((part) => part.type === "error").map((part) => String(part.error)),
      [],
    );
    assert.equal(await result.text, "どちらも晴れです。");
    assert.deepEqual(asked, ["京都", "東京"]);
    assert.equal(parts.filter((part) => part.type === "tool-result").length, 2);
    assert.equal((await result.steps).length, 2);
  });

  test(`${name}: tools in a loop, with reasoning before the call`, async () => {
    const asked = [];
    const { text, steps } = await generateText({
      ...common,
      model: model({ reasoning: "天気だ。", tool_calls }, { text: "晴れです。" }),
      tools: { weather: weather(asked) },
      stopWhen: stepCountIs(3),
    });
    assert.equal(text, "晴れです。");
    assert.equal(steps.length, 2);
    assert.deepEqual(asked, ["京都", "東京"]);
  });

  test(`${name}: a second turn`, async () => {
    const api = model({ text: "Hello, Aya." }, { text: "Aya." });
    const messages = [{ role: "user", content: "I am Aya." }];
    const first = await generateText({ model: api, maxRetries: 0, messages });
    messages.push(...first.response.messages, { role: "user", content: "Who am I?" });
    assert.equal((await generateText({ model: api, maxRetries: 0, messages })).text, "Aya.");
  });

  test(`${name}: objects`, async () => {
    const schema = z.object({ name: z.string(), steps: z.array(z.string()) });
    const object = { name: "お好み焼き", steps: ["切る", "焼く"] };
    const api = model({ text: JSON.stringify(object) });
    assert.deepEqual((await generateObject({ ...common, model: api, schema })).object, object);
    const result = streamText({ ...common, model: api, output: Output.object({ schema }) });
    const partial = await collect(result.partialOutputStream);
    assert.deepEqual(partial.at(-1), object);
    assert.deepEqual(await result.output, object);
  });

  test(`${name}: errors`, async () => {
    const failed = generateText({ ...common, model: model({ fault: { kind: "status", status: 400, message: "no" } }) });
    await assert.rejects(failed, (error) => {
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, 400);
      assert.equal(error.isRetryable, false);
      assert.match(error.message, /no/);
      return true;
    });
  });

  test(`${name}: an error in mid-stream reaches the reader`, async () => {
    const errors = [];
    const result = streamText({
      ...common,
      headers: { "X-Piropiro-On-Worker-Loss": "fail" },
      model: model({ deltas: ["a", "b", "c"], fault: { kind: "error", after: 2, message: "oops" } }),
      onError: ({ error }) => errors.push(error),
    });
    const parts = await collect(result.fullStream);
    assert.equal(errors.length, 1, JSON.stringify(parts));
    assert.equal(
      parts
        .filter((part) => part.type === "text-delta")
        .map((part) => part.text)
        .join(""),
      "ab",
    );
  });

  test(`${name}: a reader that aborts`, async () => {
    const stop = new AbortController();
    let aborted = false;
    const result = streamText({
      ...common,
      model: model({ tokens: 500, interval: 0.02 }),
      abortSignal: stop.signal,
      onAbort: () => {
        aborted = true;
      },
    });
    for await (const _ of result.textStream) stop.abort();
    assert.ok(aborted);
  });
}
