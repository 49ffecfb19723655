// The stream of one request's chunks, between the engine and its reader.

import { describe, expect, test } from "vitest";
import { GenerationStream, type GenerateChunk } from "@readme-moe/core";

const chunk = (choice: number): GenerateChunk => ({ choice, text: "", tokens: [] });

function opened(): { readonly stream: GenerationStream; readonly left: () => number } {
  let numLeft = 0;
  const stream = new GenerationStream(() => void numLeft++);
  return { stream, left: () => numLeft };
}

describe("a stream of chunks", () => {
  test("gives chunks in order, whether or not its reader waits for them, and then its end", async () => {
    const { stream, left } = opened();
    stream.push(chunk(0));
    stream.push(chunk(1));
    expect((await stream.next()).value).toEqual(chunk(0));
    expect((await stream.next()).value).toEqual(chunk(1));
    const waiting = [stream.next(), stream.next()];
    stream.push(chunk(2));
    stream.end();
    expect(await Promise.all(waiting)).toEqual([
      { done: false, value: chunk(2) },
      { done: true, value: undefined },
    ]);
    await stream.return();
    expect(left()).toBe(0);
  });

  test("throws a failure once, and drops the chunks that were not read", async () => {
    const { stream } = opened();
    stream.push(chunk(0));
    stream.fail(undefined);
    stream.push(chunk(1));
    await expect(stream.next()).rejects.toBeUndefined();
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("reports once that its reader leaves early, and ends pending reads", async () => {
    const { stream, left } = opened();
    const waiting = stream.next();
    await stream.return();
    await stream.return();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(left()).toBe(1);
  });

  // Answers are as long as the context, and each chunk is waited for.
  test("works for twenty thousand chunks", async () => {
    const { stream } = opened();
    for (let count = 0; count < 20_000; count++) {
      const waiting = stream.next();
      stream.push(chunk(count));
      expect((await waiting).value?.choice).toBe(count);
    }
  });
});
