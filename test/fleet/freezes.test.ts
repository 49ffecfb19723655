// Valkey stands still again and again, for milliseconds and for seconds: processes of workers and fronts go on, and each
// stream is that of a fleet without faults.

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { expect, test } from "vitest";
import { leftovers } from "../support/fleet/leftovers.ts";
import { killMachine, startMachine } from "../support/fleet/machines.ts";
import { noServer, startValkey } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { startReady, until, type ServingProcess } from "../support/serving-process.ts";
import { chunksOf } from "../support/sse.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of Valkey's freezes did not run: ${noServer}`);

/** The twenty minutes of `npm run test:fleet`, and a shorter time in the suite. */
const SECONDS = Number(process.env["README_MOE_FLEET_FREEZE_SECONDS"] ?? 10);
const SEED = Number(process.env["README_MOE_SEED"] ?? 1);
const NUM_AT_ONCE = 4;
/** Shortest and longest freeze, and time between two, in ms. */
const [FROZEN_MS, THAWED_MS] = [
  [5, 5000],
  [10, 10_000],
] as const;

const shared = { max_tokens: 150, stream: true, stream_options: { include_usage: true }, logprobs: 1 };
const BODIES: readonly object[] = [
  { ...shared, prompt: "Once upon a time", temperature: 0 },
  { ...shared, prompt: "The old harbour was", seed: 1, n: 2 },
  { ...shared, prompt: "In the year", seed: 2, frequency_penalty: 1.5, presence_penalty: 0.5 },
  { ...shared, prompt: "def main(", seed: 3, stop: [" the", "\n\n"], ignore_eos: false },
  { ...shared, prompt: "A patient with", seed: 4, max_tokens: 400 },
];

/** Everything that a stream says, whichever chunks it came in. */
function contentOf(text: string): object {
  const choices = new Map<number, { text: string; logprobs: object[]; finishReasons: string[] }>();
  let usage: object | undefined;
  for (const chunk of chunksOf(text.replaceAll(/^id: .*\n/gm, ""))) {
    usage = chunk.usage ?? usage;
    for (const { index, text: piece = "", finish_reason: reason, ...more } of chunk.choices) {
      const choice = choices.get(index) ?? { text: "", logprobs: [], finishReasons: [] };
      choices.set(index, choice);
      choice.text += piece;
      const { logprobs } = more as { logprobs?: Readonly<Record<string, readonly unknown[]>> | null };
      const { tokens = [], token_logprobs: values = [], top_logprobs: tops = [] } = logprobs ?? {};
      for (const [at, token] of tokens.entries()) choice.logprobs.push({ token, value: values[at], top: tops[at] });
      if (reason !== null) choice.finishReasons.push(reason);
    }
  }
  const { prompt_tokens, completion_tokens } = usage as { prompt_tokens: number; completion_tokens: number };
  return { choices: [...choices].toSorted(([a], [b]) => a - b), usage: { prompt_tokens, completion_tokens } };
}

test.skipIf(noServer !== undefined)(
  "a fleet whose Valkey freezes again and again ends no process, loses no stream, and changes none (skipped without Valkey)",
  async () => {
    const cacheFolder = await persistentFolder();
    const args = ["--cache-folder", cacheFolder];
    const valkey = await startValkey();
    const machines = await Promise.all(
      ["one", "two"].map((id) => startMachine({ fleet: valkey.url, model: POCKET, id, args })),
    );
    const setup = { args: [...args, "--requests-per-minute", "100000"], env: { README_MOE_FLEET: valkey.url } };
    const fronts: ServingProcess[] = [await startReady(POCKET, setup), await startReady(POCKET, setup)];
    const numbers = { streams: 0, refusals: 0, freezes: 0 };
    const stop = new AbortController();
    /** Sends a request until a front takes it. */
    const ask = async (number: number): Promise<object> =>
      until(async () => {
        const response = await fronts[number % fronts.length]?.complete(BODIES[number % BODIES.length]);
        if (response?.status !== 503) return contentOf((await response?.text()) ?? "");
        numbers.refusals++;
        await response.arrayBuffer();
        return undefined;
      });
    try {
      const expected: object[] = [];
      for (const number of BODIES.keys()) expected.push(await ask(number));
      let next = 0;
      const load = Array.from({ length: NUM_AT_ONCE }, async () => {
        while (!stop.signal.aborted) {
          const number = next++;
          expect(await ask(number), `request ${number}`).toStrictEqual(expected[number % BODIES.length]);
          numbers.streams++;
        }
      });
      const random = seededRandom(SEED);
      const drawMs = ([least, most]: readonly [number, number]): number => least * (most / least) ** random();
      const freezes = (async () => {
        const untilMs = performance.now() + SECONDS * 1000;
        while (performance.now() < untilMs && !stop.signal.aborted) {
          await sleep(drawMs(THAWED_MS));
          valkey.child.kill("SIGSTOP");
          await sleep(drawMs(FROZEN_MS));
          valkey.child.kill("SIGCONT");
          numbers.freezes++;
        }
      })();
      const ended = [...machines.map((machine) => machine.ended), ...fronts.map((front) => front.outcome)];
      const outcome = await Promise.race([freezes, ...load, ...ended]).finally(() => stop.abort());
      expect(outcome, machines.map((machine) => machine.errors()).join("\n")).toBeUndefined();
      await Promise.all(load);
      if (SECONDS >= 60) console.log(JSON.stringify(numbers));
      expect(numbers.streams).toBeGreaterThan(NUM_AT_ONCE);
      await expect.poll(() => leftovers(valkey.redis)).toEqual([]);
      for (const { child } of [...machines, ...fronts]) child.kill("SIGTERM");
      expect(await Promise.all(machines.map((machine) => machine.ended))).toEqual([0, 0]);
      expect((await Promise.all(fronts.map((front) => front.outcome))).map(({ code }) => code)).toEqual([0, 0]);
    } finally {
      stop.abort();
      valkey.child.kill("SIGCONT");
      await Promise.all(machines.map(killMachine));
      await valkey.stop();
    }
  },
  SECONDS * 2000 + 300_000,
);
