// Conversations of kept responses: what they may have, what admission is told of them, and what is rendered to shorten
// them.

import { ReadMeError, type ChatPrompt, type Engine } from "@readme-moe/core";
import { Admission, readMe, type ReadMeOptions } from "@readme-moe/express";
import express from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { fittingMessages } from "../../packages/express/src/responses/conversation.ts";
import * as fc from "../support/fast-check.ts";
import { postJson, type JsonAnswer } from "../support/post-json.ts";
import { chunkOf, scriptedEngine, USAGE } from "../support/scripted-engine.ts";
import { listen } from "../support/served-model.ts";

const MAX_ITEMS = 8192;

interface Served {
  readonly respond: (body: object) => Promise<JsonAnswer>;
  /** Numbers of messages that the engine has rendered, for an answer last. */
  readonly rendered: number[];
  /** Bytes of admitted requests. */
  readonly admitted: number[];
}

/** Serves an engine that has room for `maxMessages` messages, and whose answers are one letter. */
async function served(options: Partial<ReadMeOptions> = {}, maxMessages = Infinity): Promise<Served> {
  const [rendered, admitted]: [number[], number[]] = [[], []];
  const render = (prompt: unknown): number => rendered.push((prompt as ChatPrompt).messages.length);
  const engine: Engine = {
    ...scriptedEngine({
      async *answer({ prompt }) {
        render(prompt);
        yield chunkOf(0, "a", { finishReason: "stop", usage: USAGE });
      },
    }),
    async tokenize(prompt) {
      render(prompt);
      if ((prompt as ChatPrompt).messages.length > maxMessages) throw new ReadMeError("ERR_CONTEXT_LENGTH", "Too long");
      return new Int32Array(1);
    },
  };
  const admission = new Admission();
  const app = express().use(readMe.api({ engine, admission, ...options }));
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return {
    rendered,
    admitted,
    respond: (body) => postJson(`${server.url}/v1/responses`, { max_output_tokens: 1, ...body }),
  };
}

const texts = (count: number, content: unknown = "x"): readonly object[] =>
  Array.from({ length: count }, () => ({ role: "user", content }));

/** Status of an answer, with the code and the parameter of its error. */
const outcomeOf = ({ status, body: { error } }: JsonAnswer): readonly unknown[] =>
  status === 200 ? [200] : [status, (error as { code: string }).code, (error as { param: string }).param];

describe("a conversation of kept responses", () => {
  test("may have as many items and parts as a request", async () => {
    const { respond, rendered } = await served();
    const { body: first } = await respond({ input: texts(4000, [{ type: "input_text", text: "x" }]) });
    const continued = { previous_response_id: first["id"] };
    // 4,000 items of one part, and an answer of one part.
    const numLeft = MAX_ITEMS - 8002;
    expect(outcomeOf(await respond({ ...continued, input: texts(numLeft + 1) }))).toStrictEqual([
      400,
      "invalid_value",
      "input",
    ]);
    expect(outcomeOf(await respond({ ...continued, input: texts(numLeft) }))).toStrictEqual([200]);
    expect(rendered).toStrictEqual([4000, 4001 + numLeft]);
  });

  test("may have as many bytes as a body", async () => {
    const { respond } = await served({ maxBodyBytes: 10_000 });
    const { body: first } = await respond({ input: "x".repeat(6000) });
    const continued = { previous_response_id: first["id"] };
    expect(outcomeOf(await respond({ ...continued, input: "x".repeat(6000) }))).toStrictEqual([
      413,
      "request_too_large",
      "input",
    ]);
    expect(outcomeOf(await respond({ ...continued, input: "x".repeat(3000) }))).toStrictEqual([200]);
  });

  test("counts items that are named by reference, each once", async () => {
    const { respond, rendered } = await served();
    const items = texts(
      900,
      texts(9).map(() => ({ type: "input_text", text: "x" })),
    );
    const named = items.map((item, index) => ({ ...item, id: `item-${index}` }));
    await respond({ input: named.slice(0, 450) });
    await respond({ input: named.slice(450) });
    const refer = (count: number): object => ({
      input: named.slice(0, count).map(({ id }) => ({ type: "item_reference", id })),
    });
    expect(outcomeOf(await respond(refer(820)))).toStrictEqual([400, "invalid_value", "input"]);
    expect(outcomeOf(await respond(refer(819)))).toStrictEqual([200]);
    const same = { type: "item_reference", id: "item-7" };
    expect(outcomeOf(await respond({ input: Array.from({ length: MAX_ITEMS }, () => same) }))).toStrictEqual([200]);
    expect(rendered).toStrictEqual([450, 450, 819, 1]);
  });

  test("is what admission reserves room for", async () => {
    const admission = new Admission({ maxBytes: 50_000, maxTokens: 1 << 20 });
    const { respond } = await served({ admission });
    const held = admission.enter({
      bytes: 30_000,
      maxCompletionTokens: 0,
      choices: 1,
      key: undefined,
      priority: 0,
      signal: new AbortController().signal,
    });
    const long = await respond({ input: [{ role: "user", content: "x".repeat(15_000), id: "long" }] });
    held.release();
    expect(outcomeOf(long)).toStrictEqual([200]);
    const other = admission.enter({
      bytes: 40_000,
      maxCompletionTokens: 0,
      choices: 1,
      key: undefined,
      priority: 0,
      signal: new AbortController().signal,
    });
    const small = { input: "And?", previous_response_id: long.body["id"] };
    const reference = { input: [{ type: "item_reference", id: "long" }] };
    const full = [503, "server_overloaded", null];
    expect(outcomeOf(await respond(small))).toStrictEqual(full);
    expect(outcomeOf(await respond(reference))).toStrictEqual(full);
    expect(outcomeOf(await respond({ input: "And?" }))).toStrictEqual([200]);
    other.release();
    expect(outcomeOf(await respond(small))).toStrictEqual([200]);
    expect(outcomeOf(await respond(reference))).toStrictEqual([200]);
  });

  test("of many long requests loses its oldest turns where that is asked for, and renders little", async () => {
    const { respond, rendered } = await served({}, 100);
    let previous: unknown;
    for (let index = 0; index < 3; index++) {
      rendered.length = 0;
      const input = index === 2 ? "Last" : texts(MAX_ITEMS - 10);
      const answer = await respond({ input, truncation: "auto", previous_response_id: previous });
      expect(outcomeOf(answer)).toStrictEqual([200]);
      previous = answer.body["id"];
      expect(rendered.at(-1)).toBeLessThanOrEqual(100);
      expect(rendered.at(-1)).toBeGreaterThan(98);
      expect(rendered.reduce((total, count) => total + count, 0)).toBeLessThan(MAX_ITEMS + 2000);
    }
  });
});

type Messages = Parameters<typeof fittingMessages>[0];

const message = fc.record({
  role: fc.constantFrom("user", "user", "assistant", "system", "developer"),
  content: fc.string({ maxLength: 30 }),
}) as fc.Arbitrary<Messages[number]>;

const lengthOf = (messages: Messages): number =>
  messages.reduce((total, { content }) => total + 5 + (content as string).length, 0);

/** Leaves out one turn after the other until the rest fits. */
function plainlyFitting(messages: Messages, maxLength: number): Messages {
  let rest = messages;
  for (;;) {
    const isOfSystem = ({ role }: Messages[number]): boolean => role === "system" || role === "developer";
    const second = rest.flatMap(({ role }, index) => (role === "user" ? [index] : []))[1];
    if (lengthOf(rest) <= maxLength || second === undefined) return rest;
    rest = rest.filter((one, index) => index >= second || isOfSystem(one));
  }
}

describe("messages that do not fit", () => {
  const conversations = fc.tuple(fc.array(message, { maxLength: 80 }), fc.nat(2000), fc.nat(80));

  test("lose as many of the oldest turns as they have to", async () => {
    await fc.assert(
      fc.asyncProperty(conversations, async ([messages, maxLength, likelyMessages]) => {
        let numRendered = 0;
        const tokensOf = async (some: Messages): Promise<number> => {
          numRendered++;
          const length = lengthOf(some);
          return length <= maxLength ? length : Infinity;
        };
        const right = plainlyFitting(messages, maxLength);
        const limits = { maxTokens: maxLength, maxWork: Infinity, likelyMessages };
        expect(await fittingMessages(messages, tokensOf, limits)).toStrictEqual(right);
        expect(numRendered).toBeLessThanOrEqual(Math.ceil(Math.log2(messages.length + 1)) + 6);
      }),
      { numRuns: 500 },
    );
  });

  test("are not rendered as a whole where that can hardly fit", async () => {
    const messages = texts(8192) as Messages;
    const rendered: number[] = [];
    const tokensOf = (some: Messages): Promise<number> => {
      rendered.push(some.length);
      return Promise.resolve(some.length <= 100 ? 3 + 10 * some.length : Infinity);
    };
    const limits = { maxTokens: 1009, maxWork: 2 ** 22, likelyMessages: 512 };
    expect(await fittingMessages(messages, tokensOf, limits)).toHaveLength(100);
    // One rendering to learn the tokens of a message, one that fits and one that does not.
    expect(rendered.length).toBeLessThanOrEqual(4);
    expect(Math.max(...rendered)).toBeLessThanOrEqual(101);
  });

  test("are rendered within a bound, and lose more turns where that is too little", async () => {
    await fc.assert(
      fc.asyncProperty(conversations, fc.nat(40_000), async ([messages, maxLength, likelyMessages], maxWork) => {
        let work = 0;
        const tokensOf = async (some: Messages): Promise<number> => {
          if (some !== messages) for (const one of some) work += 512 + JSON.stringify(one).length;
          return lengthOf(some);
        };
        const limits = { maxTokens: maxLength, maxWork, likelyMessages };
        const found = await fittingMessages(messages, tokensOf, limits);
        const right = plainlyFitting(messages, maxLength);
        expect(right).toStrictEqual(expect.arrayContaining([...found]));
        expect(found.at(-1)).toBe(messages.at(-1));
        expect(work).toBeLessThanOrEqual(maxWork);
      }),
      { numRuns: 500 },
    );
  });
});
