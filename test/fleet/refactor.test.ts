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
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { writeFirstLayers } from "../support/first-layers.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { POCKET } from "../support/pocket.ts";
import { pocketTexts, SHARDED } from "../support/pocket-texts.ts";
import { NODE_ARGUMENTS, runCli } from "../support/run-cli.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

if (noServer !== undefined) console.log(`The tests of a refactoring on machines did not run: ${noServer}`);

const PROGRAMS = join(import.meta.dirname, "..", "support", "programs");
/** Tasks that the first machine runs; the result of the last one is stored, and its end is not reported. */
const TASKS_BEFORE_KILL = 4;
const MACHINES = "c".repeat(64);

test("the commands say what is missing", async () => {
  const worker = await runCli(["worker", POCKET, "--refactor", "--fleet", "redis://127.0.0.1:1"]);
  expect(worker).toMatchObject({ code: 2, stderr: expect.stringContaining("--artefacts") as string });
  const data = join(POCKET, "calibration", "book.jsonl");
  const flags = ["--out", "x", "--data", data, "--fleet", "redis://127.0.0.1:1"];
  const coordinator = await runCli(["refactor", POCKET, ...flags]);
  expect(coordinator).toMatchObject({ code: 2, stderr: expect.stringContaining("--artefacts") as string });
});

describe.skipIf(noServer !== undefined)("a refactoring on machines (skipped without Valkey)", () => {
  let server: ValkeyServer;
  beforeAll(async () => {
    server = await startValkey();
  });
  afterAll(() => server.stop());

  test("gives the model of one machine, though a machine and the coordinator are killed", async () => {
    const folder = await temporaryFolder();
    const pathOf = (name: string): string => join(folder, name);
    const [model, alone, together, place] = [pathOf("model"), pathOf("alone"), pathOf("together"), pathOf("artefacts")];
    await writeFirstLayers(POCKET, model, 2);
    const pocket = await openModel(model);
    await refactor(pocket, await pocketTexts(), alone, { ...SHARDED, source: "pocket" });
    await pocket.close();

    const fleet = server.url;
    const startMachine = (killAfter: number): ChildProcess => {
      const args = [model, fleet, place, String(killAfter)];
      return fork(join(PROGRAMS, "refactor-machine.ts"), args, { execArgv: [...NODE_ARGUMENTS] });
    };
    const coordinate = (killAt: string | undefined, ...more: readonly string[]): Promise<number> =>
      runUpTo(
        join(PROGRAMS, "refactor-coordinator.ts"),
        [model, together, fleet, place, ...more],
        (text) => text === killAt,
      );
    const mortal = startMachine(TASKS_BEFORE_KILL);
    const coordinated = coordinate("layers 1/2");
    expect(await once(mortal, "exit")).toEqual([null, "SIGKILL"]);
    const flags = ["--refactor", "--threads", "2", "--fleet", fleet, "--artefacts", place];
    const [other, operated] = [startMachine(0), startCommand(["worker", model, ...flags])];
    onTestFinished(() => void other.kill("SIGKILL"));
    const outcome = outcomeOf(operated);
    const announced = once(operated.stdout ?? operated, "data");
    await coordinated;
    expect(await readdir(folder)).toContain("together.unfinished");
    await coordinate(undefined, "resume");
    await announced;
    operated.kill("SIGTERM");
    expect(await outcome).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^machine [0-9a-f]{8}\n$/) as string,
    });

    expect(await modelHashes(together)).toEqual(await modelHashes(alone));
    expect(await readdir(place)).toEqual([]);
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
    const flow = {
      machines: MACHINES,
      plan: "d".repeat(64),
      last: "end",
      isDone: () => Promise.resolve(started.includes("end")),
    };
    await expect(coordinator.run({ ...flow, tasks: ["good", "bad"] })).rejects.toThrow("task bad: no such task");
    expect(started).not.toContain("end");
    await expect(coordinator.run({ ...flow, last: undefined, tasks: ["good", "bad"] })).rejects.toThrow("task bad");
    const hostile = "../../etc/passwd";
    await expect(coordinator.run({ ...flow, tasks: [hostile] })).rejects.toThrow("Expected a job of a coordinator");
    expect(started).not.toContain(hostile);
    // The failures of before are no obstacle.
    await coordinator.run({ ...flow, tasks: ["good"] });
    expect(started).toContain("end");
  });
});
