// A request whose id another one had that was just left: it gets its own tokens alone.

import { ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { POCKET } from "../support/pocket.ts";

let engine: ReadMeEngine;
beforeAll(async () => {
  engine = await ReadMeEngine.open(POCKET, { threads: 1 });
});
afterAll(() => engine.dispose());

test("an id may be used again at once after its request was left", async () => {
  const params = { maxTokens: 12, temperature: 0, ignoreEos: true };
  const request = { prompt: "The ship was", id: "same", params };
  const { ids } = await complete(engine, { ...request, id: "alone" });
  for (let round = 0; round < 30; round++) {
    let numChunks = 0;
    for await (const _ of engine.generate({ ...request, prompt: "Another text, which is longer: the" })) {
      if (++numChunks > round % 4) break;
    }
    // One that is left before it was sent changes nothing, either.
    if (round % 3 === 0) await engine.generate(request).return?.();
    expect((await complete(engine, request)).ids).toEqual(ids);
  }
  expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});
