// The stream of one request's chunks, between the one who generates and the one who reads.

import { describe, expect, test } from "vitest";
import type { GenerateChunk } from "@readme-moe/core";
import { ChunkStream } from "../../packages/engine/src/host/chunk-stream.ts";

const chunk = (choice: number): GenerateChunk => ({ choice, text: "", tokens: [] });

function opened(): { readonly stream: ChunkStream; readonly left: () => number } {
  let numLeft = 0;
  const stream = new ChunkStream(() => void numLeft++);
  return { stream, left: () => numLeft };
}

describe("a stream of chunks", () => {
  test("gives chunks in order, whether or not somebody waits for them, and then its end", async () => {
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

  test("tells a failure once, before chunks that were not read", async () => {
    const { stream } = opened();
    stream.push(chunk(0));
    stream.fail(undefined);
    stream.push(chunk(1));
    await expect(stream.next()).rejects.toBeUndefined();
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("tells when its reader leaves early, once, and ends for those who still wait", async () => {
    const { stream, left } = opened();
    const waiting = stream.next();
    await stream.return();
    await stream.return();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(left()).toBe(1);
  });

  // Answers are as long as the context, and each chunk is waited for.
  test("is as good after twenty thousand chunks as after one", async () => {
    const { stream } = opened();
    for (let count = 0; count < 20_000; count++) {
      const waiting = stream.next();
      stream.push(chunk(count));
      expect((await waiting).value?.choice).toBe(count);
    }
  });
});
