// Machines that leave under load, as processes: a front that is killed, and workers whose model is replaced.

import { readFleetStatus } from "@readme-moe/fleet";
import { ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { killMachine, startMachine, type Machine } from "../support/fleet/machines.ts";
import { readAnswer } from "../support/fleet/requests.ts";
import { blocksOf, readBlocks } from "../support/fleet/sse-blocks.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { startReady, until, type ServingProcess } from "../support/serving-process.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a fleet that is replaced did not run: ${noServer}`);

const PROMPTS = ["Once upon a time", "SELECT name FROM", "def main(", "A patient with"] as const;
const [NUM_AT_ONCE, NUM_TOKENS] = [4, 32] as const;

/** Kills a front in the middle of a stream, and reads the rest at another one. */
async function killFront(first: ServingProcess, second: ServingProcess): Promise<void> {
  const body = { prompt: "Once upon a time", stream: true, max_tokens: 300, ignore_eos: true, seed: 1 };
  const whole = await until(async () => {
    const response = await second.complete(body);
    return response.status === 200 && blocksOf(await response.text());
  });
  // A front that has just begun does not know the workers yet.
  await until(async () => (await first.complete()).status === 200);
  const onRead = (): unknown => first.child.kill("SIGKILL") && first.outcome;
  const kept = (await readBlocks(`${first.url}/v1/completions`, { body, count: 40, onRead })).slice(0, 40);
  const response = await fetch(`${second.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "last-event-id": kept.at(-1)?.id ?? "" },
    body: JSON.stringify(body),
  });
  expect(response.status).toBe(200);
  const rest = blocksOf(await response.text());
  expect([...kept, ...rest].map(({ text }) => textOf(text))).toEqual(whole.map(({ text }) => textOf(text)));
}

describe.skipIf(noServer !== undefined)("a fleet under load (skipped without Valkey)", () => {
  let valkey: ValkeyServer;
  let cacheFolder: string;
  const machines = new Map<string, Machine>();

  const start = async (id: string, precision: string): Promise<void> => {
    const args = ["--cache-folder", cacheFolder, "--precision", precision];
    machines.set(id, await startMachine({ fleet: valkey.url, model: POCKET, id, args }));
  };
  const drain = async (id: string): Promise<void> => {
    const machine = machines.get(id);
    machine?.child.kill("SIGTERM");
    expect(await machine?.ended, machine?.errors()).toBe(0);
  };
  const startFront = (): Promise<ServingProcess> =>
    startReady(POCKET, { args: ["--cache-folder", cacheFolder], env: { README_MOE_FLEET: valkey.url } });
  const known = async (count: number): Promise<unknown> =>
    until(async () => (await readFleetStatus(valkey.url)).workers.length === count);

  beforeAll(async () => {
    valkey = await startValkey();
    cacheFolder = await persistentFolder();
    await Promise.all([start("old-1", "fp32"), start("old-2", "fp32")]);
    await known(2);
  });

  afterAll(async () => {
    await Promise.all([...machines.values()].map(killMachine));
    await valkey?.stop();
  });

  // One test, since each start of a front and of a worker takes seconds.
  test("loses no stream when a front is killed, and no answer when its model changes worker by worker", async () => {
    const [first, front] = await Promise.all([startFront(), startFront()]);
    await killFront(first, front);
    const [old, next] = [await answersOf("fp32", cacheFolder), await answersOf("int8", cacheFolder)];
    expect(old).not.toEqual(next);
    const over = new AbortController();
    const counts = { old: 0, next: 0 };
    const wrong: string[] = [];
    const ask = async (index: number): Promise<string> => {
      const body = { prompt: PROMPTS[index], max_tokens: NUM_TOKENS, temperature: 0 };
      const response = await front.complete(body);
      const answer = (await response.json()) as { readonly choices?: readonly { readonly text: string }[] };
      const text = answer.choices?.[0]?.text ?? "";
      if (text !== old[index] && text !== next[index]) wrong.push(`${response.status} ${JSON.stringify(answer)}`);
      return text;
    };
    const load = async (offset: number): Promise<void> => {
      for (let count = offset; !over.signal.aborted; count++) {
        const index = count % PROMPTS.length;
        const text = await ask(index);
        counts[text === next[index] ? "next" : "old"]++;
      }
    };
    const loads = Promise.all(Array.from({ length: NUM_AT_ONCE }, (_, offset) => load(offset)));
    const answered = (version: "old" | "next"): Promise<boolean> =>
      until(async () => {
        await ask(0);
        return wrong.length > 0 || counts[version] > NUM_AT_ONCE;
      });
    await answered("old");
    await start("new-1", "int8");
    await drain("old-1");
    const { stdout } = await runCli(["fleet", "status", "--fleet", valkey.url]);
    expect(stdout).toMatch(/^model +workers +draining +places/m);
    expect((await readFleetStatus(valkey.url)).versions).toMatchObject([{ workers: 1 }, { workers: 1 }]);
    await start("new-2", "int8");
    await drain("old-2");
    counts.next = 0;
    await answered("next");
    over.abort();
    await loads;
    expect(wrong).toEqual([]);
    for (const index of PROMPTS.keys()) expect(await ask(index)).toBe(next[index]);
    expect((await readFleetStatus(valkey.url)).versions).toMatchObject([{ workers: 2, draining: 0, waiting: 0 }]);
  }, 900_000);
});

/** The answers of one machine to all prompts, greedily. */
async function answersOf(precision: "fp32" | "int8", cacheFolder: string): Promise<readonly string[]> {
  const engine = await ReadMeEngine.open(POCKET, { precision, cacheFolder, isolation: "thread", threads: 1 });
  const params = { maxTokens: NUM_TOKENS, ignoreEos: true, temperature: 0 };
  const answers = PROMPTS.map(async (prompt) => (await readAnswer(engine, { prompt, params })).texts[0] ?? "");
  const texts = await Promise.all(answers);
  await engine.dispose();
  return texts;
}

/** The text of a completion's event. */
function textOf(block: string): string {
  const data = /^data: (.*)$/m.exec(block)?.[1] ?? "";
  if (data === "[DONE]") return data;
  const { choices } = JSON.parse(data) as { choices: readonly { text: string; finish_reason: string | null }[] };
  return choices.map(({ text, finish_reason: reason }) => `${text}${reason ?? ""}`).join("");
}
