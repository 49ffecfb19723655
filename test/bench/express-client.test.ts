// Client of the server benchmark: recognizes incomplete answers, and only those.

import type { ServerResponse } from "node:http";
import express from "express";
import { expect, test } from "vitest";
import { post, type Answer } from "../../bench/express/client.ts";
import { listen } from "../support/served-model.ts";

const chunk = (text: string, reason: string | null): string =>
  `data: ${JSON.stringify({ id: "a", choices: [{ text, finish_reason: reason }] })}\n\n`;
const error = 'data: {"error":{"message":"x","type":"server_error","param":null,"code":"engine_failed"}}\n\n';
const DONE = "data: [DONE]\n\n";
const PING = ": ping\n\n";

async function answerTo(write: (response: ServerResponse) => void): Promise<Answer> {
  await using server = await listen(
    express().use((_, response) => {
      response.setHeader("content-type", "text/event-stream; charset=utf-8");
      write(response);
    }),
  );
  return await post(server.url, {});
}

test.each([
  ["text", [chunk("a", null), chunk("b", "length"), DONE]],
  ["text that looks like events", [chunk('data: [DONE]\n\ndata: {"error":{}}', "stop"), DONE]],
  ["a comment before its first event", [PING, chunk("a", "length"), DONE]],
  ["comments between events", [chunk("a", null), PING, PING, chunk("b", "length"), DONE]],
])("a stream of %s is whole", async (_, events) => {
  expect(await answerTo((response) => response.end(events.join("")))).toMatchObject({
    status: 200,
    isWhole: true,
    errorCode: undefined,
  });
});

test.each([
  ["an error after a comment", [PING, error], "engine_failed"],
  ["an error after text", [chunk("a", null), error], "engine_failed"],
  ["no end", [chunk("a", null)], undefined],
  ["an end that comes too early", [chunk("a", null), DONE], undefined],
  ["half an event at its end", [chunk("a", "length"), DONE.slice(0, -1)], undefined],
])("a stream with %s is not", async (_, events, errorCode) => {
  expect(await answerTo((response) => response.end(events.join("")))).toMatchObject({
    status: 200,
    isWhole: false,
    errorCode,
  });
});

test("does not count a stream that ends early as an answer", async () => {
  const answer = await answerTo((response) => {
    response.write(chunk("a", null), () => response.destroy());
  });
  expect(answer).toMatchObject({ status: 0, isWhole: false });
});
