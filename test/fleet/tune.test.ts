// A training on machines with other numbers of threads, of which one is killed, by a coordinator that is interrupted and
// resumed: the experts of one machine.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { FlowCoordinator, readFleetStatus } from "@readme-moe/fleet";
import { openModel } from "@readme-moe/model";
import { openArtefacts, tuneLoras, type LoraOptions, type LoraRun } from "@readme-moe/refactor";
import { describe, expect, onTestFinished, test } from "vitest";
import { modelHashes } from "../support/model-hashes.ts";
import { writeFirstLayers } from "../support/first-layers.ts";
import { noServer, startValkey } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { pocketTexts } from "../support/pocket-texts.ts";
import { NODE_ARGUMENTS, runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a training on machines did not run: ${noServer}`);

const MACHINE = join(import.meta.dirname, "..", "support", "programs", "refactor-machine.ts");
const OPTIONS: LoraOptions & LoraRun = {
  tokens: 2048,
  sequenceTokens: 64,
  batchSequences: 4,
  shards: 2,
  rank: 4,
  learningRate: 0.01,
  evaluationSequences: 1,
  evaluations: 1,
  rival: false,
  routerSteps: 1,
  routerTokens: 64,
  source: "pocket",
};
/** Tasks that the first machine runs; the result of the last one is stored, and its end is not reported. */
const TASKS_BEFORE_KILL = 3;
/** Step behind which the coordinator is interrupted. */
const LAST_STEP = 5;

test("the command says which tuning runs on machines", async () => {
  const data = ["--data", join(POCKET, "calibration", "book.jsonl")];
  const fleet = ["--fleet", "redis://127.0.0.1:1", "--artefacts", "y"];
  const distilled = await runCli(["tune", POCKET, "--teacher", POCKET, "--out", "x", ...data, ...fleet]);
  const refusal = "option '--fleet' cannot be used without --experts low-rank";
  expect(distilled).toMatchObject({ code: 2, stderr: expect.stringContaining(refusal) as string });
});

describe.skipIf(noServer !== undefined)("a training on machines (skipped without Valkey)", () => {
  test("gives the experts of one machine, though a machine is killed and the coordinator resumed", async () => {
    const server = await startValkey();
    onTestFinished(() => server.stop());
    const folder = await temporaryFolder();
    const pathOf = (name: string): string => join(folder, name);
    const [path, alone, together, place] = [pathOf("model"), pathOf("alone"), pathOf("together"), pathOf("artefacts")];
    await writeFirstLayers(POCKET, path, 1);
    await using model = Object.assign(await openModel(path), {
      [Symbol.asyncDispose]: (): Promise<void> => model.close(),
    });
    const texts = await pocketTexts(["book", "github"]);
    await tuneLoras(model, texts, alone, { ...OPTIONS, threads: 1 });

    const startMachine = (killAfter: number, threads: number): ChildProcess => {
      const args = [path, server.url, place, String(killAfter), String(threads)];
      return fork(MACHINE, args, { execArgv: [...NODE_ARGUMENTS] });
    };
    const artefacts = await openArtefacts(place);
    const coordinator = await FlowCoordinator.open({ fleet: server.url, pollMs: 10 });
    onTestFinished(() => coordinator.close());
    const interrupt = new AbortController();
    const train = (more: LoraRun): Promise<unknown> =>
      tuneLoras(model, texts, together, {
        ...OPTIONS,
        threads: 2,
        fleet: { artefacts, run: (flow) => coordinator.run(flow) },
        ...more,
      });
    const mortal = startMachine(TASKS_BEFORE_KILL, 1);
    const interrupted = train({
      signal: interrupt.signal,
      onProgress: ({ step }) => (step === LAST_STEP ? interrupt.abort(new Error("stop")) : undefined),
    });
    const refused = expect(interrupted).rejects.toThrow("stop");
    expect(await once(mortal, "exit")).toEqual([null, "SIGKILL"]);
    const others = [startMachine(0, 2), startMachine(0, 1)];
    onTestFinished(() => others.forEach((other) => other.kill("SIGKILL")));
    await refused;
    expect(await readdir(folder)).toContain("together.unfinished");
    await train({ resume: true });

    expect(await modelHashes(together)).toEqual(await modelHashes(alone));
    expect(await readdir(place)).toEqual([]);
    expect((await readFleetStatus(server.url)).queues).toEqual([]);
  });
});
