// Engines that hang: they are noticed and ended, their requests end, and they can be opened again.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeEngine, type EngineOptions } from "@readme-moe/engine";
import { beforeAll, describe, expect, test } from "vitest";
import { afterPart, HEARD, isHung } from "../../packages/engine/src/host/worker-link.ts";
import { complete } from "../support/complete.ts";
import * as fc from "../support/fast-check.ts";
import { HANGING_TOKENS, writeHangingScheduler } from "../support/hanging-scheduler.ts";
import { ISOLATIONS } from "../support/pocket-engine.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const params = { temperature: 0, maxTokens: 6, ignoreEos: true };
const PROMPT = [1, 2, 3];
const HANGING = { prompt: PROMPT, params: { ...params, maxTokens: 2 * HANGING_TOKENS } };

let folder: string;
let model: string;
beforeAll(async () => {
  folder = await persistentFolder();
  model = join(folder, "model");
  // A short context: the limit is at least ten of the longest steps that are predicted.
  await writeTinyReadMe(model, { config: { max_position_embeddings: 64 }, ...WITH_TOKENIZER, numExperts: 3 });
});

const open = (options: EngineOptions): Promise<ReadMeEngine> =>
  ReadMeEngine.open(model, { threads: 1, precision: "int8", hungMs: 1500, speculation: false, ...options });

describe.each(ISOLATIONS)("an engine in a %s", (isolation) => {
  test.each([
    ["loops in JavaScript", "for (;;)"],
    ["waits within native code", "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)"],
  ])("that %s is ended with its requests, and serves as before once it is open again", async (_, hang) => {
    const engine = await open({ isolation, scheduler: await writeHangingScheduler(folder, hang) });
    const expected = await complete(engine, { prompt: PROMPT, params });
    const failures: string[] = [];
    engine.events.on("engine:failed", ({ code, message }) => failures.push(`${code} ${message}`));
    const requests = [complete(engine, HANGING), complete(engine, { prompt: [4, 5], params: HANGING.params })];
    for (const request of requests) await expectReadMeError(request, "ERR_ENGINE_FAILED", "gave no sign of life");
    await expectReadMeError(engine.stats(), "ERR_ENGINE_FAILED", "hung");
    const message = /^ERR_ENGINE_FAILED The engine's worker hung: it gave no sign of life for \d+ ms, and was ended$/;
    expect(failures).toStrictEqual([expect.stringMatching(message)]);
    await engine.restart();
    expect(await complete(engine, { prompt: PROMPT, params })).toStrictEqual(expected);
    await engine.dispose();
  });

  test("that hangs while it is opened is not opened", async () => {
    const module = join(folder, "loop.mjs");
    await writeFile(module, "for (;;);");
    const opened = open({ isolation, hungMs: 400, scheduler: { module } });
    await expectReadMeError(opened, "ERR_ENGINE_FAILED", "gave no sign of life for 2000 ms");
  });
});

test("only a whole limit without a sign of life counts, and none before the worker was asked", () => {
  const PARTS_TO_HANG = 9;
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 60, size: "max" }), (heardBefore) => {
      let silence = afterPart(HEARD);
      // Parts since the worker was asked last, counted plainly: it is asked in the part after it was heard.
      let quiet = 0;
      for (const isHeard of heardBefore) {
        if (isHeard) [silence, quiet] = [HEARD, -1];
        silence = afterPart(silence);
        quiet++;
        expect(isHung(silence)).toBe(quiet >= PARTS_TO_HANG);
      }
    }),
  );
});
