// What experts cost that a step does not use: a mixture of SmolLM2's shape with seven experts of half its width, random
// weights, beside a model that is one of those experts alone. Steps of one sequence, and of 16 whose tokens go to
// 1, 2, 4 and 7 experts. Each model and repetition in a process of its own, in turns; medians.
//
//   pnpm bench:experts [--precision int8] [--threads 2] [--past 120] [--rounds 60] [--repetitions 3]

import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ModelRunner } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import { median } from "readme-moe/bench";
import { decodeSteps } from "./decode-steps.ts";
import { randomModel, SMOLLM2_135M } from "./random-model.ts";

const { values } = parseArgs({
  options: {
    precision: { type: "string", default: "int8" },
    threads: { type: "string", default: "2" },
    past: { type: "string", default: "120" },
    rounds: { type: "string", default: "60" },
    repetitions: { type: "string", default: "3" },
    experts: { type: "string" },
  },
});
const precision = values.precision as Precision;
const past = Number(values.past);
const rounds = Number(values.rounds);

if (values.experts === undefined) compare();
else console.log(JSON.stringify(await measure(Number(values.experts))));

function compare(): void {
  const samples = { alone: [] as Record<string, number>[], mixture: [] as Record<string, number>[] };
  for (let repetition = 0; repetition < Number(values.repetitions); repetition++) {
    samples.alone.push(inProcess(1));
    samples.mixture.push(inProcess(7));
  }
  console.log(`SmolLM2's shape, experts of half width, ${precision}, past of ${past} tokens; milliseconds a step`);
  const alone = median(samples.alone.map((times) => times["1 sequence"] as number));
  for (const name of Object.keys(samples.mixture[0] ?? {})) {
    const mixture = median(samples.mixture.map((times) => times[name] as number));
    const more = name === "1 sequence" ? `, ${(((mixture - alone) / alone) * 100).toFixed(1)} % more` : "";
    const one = samples.alone.map((times) => times[name] as number);
    const beside = Number.isFinite(one[0]) ? `; the expert alone ${median(one).toFixed(2)}${more}` : "";
    console.log(`${name}: ${mixture.toFixed(2)}${beside}`);
  }
}

function inProcess(numExperts: number): Record<string, number> {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...process.execArgv, ...process.argv.slice(1), "--experts", String(numExperts)],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Record<string, number>;
}

async function measure(numExperts: number): Promise<Record<string, number>> {
  const cacheFolder = join(tmpdir(), "readme-moe-bench-experts");
  const model = randomModel(SMOLLM2_135M, numExperts, SMOLLM2_135M.ffnSize / 2);
  const runner = await ModelRunner.open(model, { precision, threads: Number(values.threads), cacheFolder });
  const stepMs = async (numSeqs: number, distinct: number): Promise<number> =>
    median(await decodeSteps(runner, { numSeqs, past, distinct }, rounds));
  const times: Record<string, number> = { "1 sequence": await stepMs(1, 1) };
  for (const active of [1, 2, 4, 7].filter((count) => count <= numExperts)) {
    times[`16 sequences on ${active} expert${active > 1 ? "s" : ""}`] = await stepMs(16, active);
  }
  await runner.dispose();
  return times;
}
