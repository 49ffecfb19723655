// Opens damaged and hostile model files: each is refused with a ReadMeError, or opened and used, in 2 s and 256 MB.
//
//   npm run bench:fuzz:models -- [--cases 100000] [--seed 1] [--first 0] [--workers 2] [--seconds S]
//     [--folder FOLDER] [--replay FILE]
//
// Seed and index determine a case. Failed cases are stored in the folder; `--replay` opens one again, alone.

import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { percentile } from "../kit/statistics.ts";
import { verdictOf } from "../express/figures.ts";
import { type Failure, fuzzModels, replayCase, storeFailure } from "./fuzz.ts";
import type { CaseReport, Replayed } from "./messages.ts";

const MAX_TOLD = 30;
const TELL_MS = 30_000;

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "100000" },
    seed: { type: "string", default: "1" },
    first: { type: "string", default: "0" },
    workers: { type: "string", default: "2" },
    seconds: { type: "string" },
    folder: { type: "string", default: join(tmpdir(), "readme-moe-fuzz-models") },
    replay: { type: "string" },
  },
});

let told = 0;

if (values.replay !== undefined) await replay(values.replay);
else await fuzz();

async function replay(file: string): Promise<void> {
  const problems = await replayCase(JSON.parse(await readFile(file, "utf8")) as Replayed);
  console.log(problems.join("\n") || "no problem");
  if (problems.length > 0) process.exitCode = 1;
}

async function fuzz(): Promise<void> {
  const [seed, first, numCases] = [Number(values.seed), Number(values.first), Number(values.cases)];
  const kinds = new Map<string, { outcomes: Map<string, number>; ms: number[] }>();
  const startMs = performance.now();
  let [done, suspected] = [0, 0];
  const telling = setInterval(() => console.log(`${done} cases, suspected: ${suspected}`), TELL_MS);
  const onReport = ({ kind, outcome, ms, problems }: CaseReport): void => {
    done++;
    if (problems.length > 0) suspected++;
    const of = kinds.get(kind) ?? { outcomes: new Map<string, number>(), ms: [] };
    kinds.set(kind, of);
    of.outcomes.set(outcome, (of.outcomes.get(outcome) ?? 0) + 1);
    of.ms.push(ms);
  };
  const maxSeconds = values.seconds === undefined ? undefined : Number(values.seconds);
  const result = await fuzzModels({ seed, first, numCases, workers: Number(values.workers), maxSeconds, onReport });
  clearInterval(telling);
  const seconds = (performance.now() - startMs) / 1000;
  console.log(`\nseed ${seed}, cases from ${first}: ${result.numCases} in ${seconds.toFixed(0)} s`);
  for (const [kind, { outcomes, ms }] of kinds) {
    const counts = [...outcomes].toSorted(([, a], [, b]) => b - a).map(([outcome, count]) => `${outcome} ${count}`);
    const times = `p99 ${percentile(ms, 99).toFixed(0)} ms, most ${Math.max(...ms).toFixed(0)} ms`;
    console.log(`${kind.padEnd(10)}${String(ms.length).padStart(7)} cases  ${times.padEnd(28)} ${counts.join(", ")}`);
  }
  for (const failure of result.failures) await tell(failure, "");
  for (const failure of result.unconfirmed) await tell(failure, " (not alone)");
  const text = `every case is refused by name, or opened${result.failures.length > 0 ? `, except ${result.failures.length}` : ""}`;
  if (!verdictOf(text, result.failures.length === 0)) process.exitCode = 1;
}

async function tell(failure: Failure, note: string): Promise<void> {
  const file = await storeFailure(values.folder, failure);
  if (told++ >= MAX_TOLD) return;
  const { seed, index, kind, way, files } = failure.case;
  console.log(
    `${seed}-${index} ${kind}, ${way} of ${[...files.keys()].join(", ")}${note}: ${failure.problems.join("; ")}\n   ${file}`,
  );
}
