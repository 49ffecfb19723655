// A refactoring on machines of which one is killed, by a coordinator that is killed and resumes: the model of one machine.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { FlowCoordinator, FlowWorker, readFleetStatus } from "@readme-moe/fleet";
import { refactor } from "@readme-moe/refactor";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { runUpTo } from "../support/killed-run.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { pocketTexts, SHARDED } from "../support/pocket-texts.ts";
import { NODE_ARGUMENTS, runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a refactoring on machines did not run: ${noServer}`);

const PROGRAMS = join(import.meta.dirname, "..", "support", "programs");
/** Of the 47 tasks, one machine ends none after this many, and the coordinator hears of two layers only. */
const TASKS_BEFORE_KILL = 4;
const MACHINES = "c".repeat(64);

test("the commands say what is missing", async () => {
  const worker = await runCli(["worker", POCKET, "--refactor", "--fleet", "redis://127.0.0.1:1"]);
  expect(worker).toMatchObject({ code: 2, stderr: expect.stringContaining("--artefacts") as string });
  const data = join(POCKET, "calibration", "book.jsonl");
  const coordinator = await runCli(["refactor", POCKET, "--out", "x", "--data", data, "--fleet", "redis://127.0.0.1:1"]);
  expect(coordinator).toMatchObject({ code: 2, stderr: expect.stringContaining("--artefacts") as string });
});

describe.skipIf(noServer !== undefined)("a refactoring on machines", () => {
  let server: ValkeyServer;
  beforeAll(async () => {
    server = await startValkey();
  });
  afterAll(() => server.stop());

  test("gives the model of one machine, though a machine and the coordinator are killed", async () => {
    const folder = await temporaryFolder();
    const [alone, together, place] = ["alone", "together", "artefacts"].map((name) => join(folder, name));
    const pocket = await openModel(POCKET);
    await refactor(pocket, await pocketTexts(), alone!, { ...SHARDED, source: "pocket" });
    await pocket.close();

    const startMachine = (killAfter: number): ChildProcess => {
      const args = [server.url, place!, String(killAfter)];
      const child = fork(join(PROGRAMS, "refactor-machine.ts"), args, { execArgv: [...NODE_ARGUMENTS] });
      onTestFinished(() => void child.kill("SIGKILL"));
      return child;
    };
    const [mortal] = [startMachine(TASKS_BEFORE_KILL), startMachine(0)];
    const killed = once(mortal!, "exit");
    const coordinate = (killAt: string | undefined, ...more: readonly string[]): Promise<number> => {
      const args = [together!, server.url, place!, ...more];
      return runUpTo(join(PROGRAMS, "refactor-coordinator.ts"), args, (message) => message === killAt);
    };
    await coordinate("layers 2/6");
    expect(await killed).toEqual([null, "SIGKILL"]);
    expect(await readdir(folder)).toContain("together.unfinished");
    await coordinate(undefined, "resume");

    expect(await modelHashes(together!)).toEqual(await modelHashes(alone!));
    expect(await readdir(place!)).toEqual([]);
    expect((await readFleetStatus(server.url)).queues).toEqual([]);
  });

  test("a task that fails on every machine ends the flow with its reason, and hostile jobs run nothing", async () => {
    const started: string[] = [];
    const worker = FlowWorker.open({
      fleet: server.url,
      machines: MACHINES,
      abort: new AbortController(),
      run: ({ task }) => {
        started.push(task);
        return task === "bad" ? Promise.reject(new RangeError("no such task")) : Promise.resolve();
      },
    });
    const coordinator = await FlowCoordinator.open({ fleet: server.url, pollMs: 10 });
    onTestFinished(async () => {
      await worker.close();
      await coordinator.close();
    });
    const flow = { machines: MACHINES, plan: "d".repeat(64), last: "end", isDone: () => Promise.resolve(started.includes("end")) };
    await expect(coordinator.run({ ...flow, tasks: ["good", "bad"] })).rejects.toThrow("task bad: no such task");
    expect(started).not.toContain("end");
    const hostile = "../../etc/passwd";
    await expect(coordinator.run({ ...flow, tasks: [hostile] })).rejects.toThrow("Expected a job of a coordinator");
    expect(started).not.toContain(hostile);
    // The failures of before are no obstacle.
    await coordinator.run({ ...flow, tasks: ["good"] });
    expect(started).toContain("end");
  });
});
