// Runs many cases in several workers, and keeps those that fail.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readBases, writeBases } from "./bases.ts";
import { CaseWorker } from "./case-worker.ts";
import { type CaseReport, fileOf, type Replayed } from "./messages.ts";
import { caseOf, type ModelCase } from "./model-case.ts";

/** Cases that a worker is given at once. */
const BATCH = 50;
const MAX_CONFIRMED = 40;
const MAX_CASE_MS = 2000;

export interface FuzzOptions {
  readonly seed: number;
  readonly first: number;
  readonly numCases: number;
  readonly workers: number;
  /** Processor time that a case may take. @default 2000 */
  readonly maxCaseMs?: number | undefined;
  /** Ends a run early. @default no limit */
  readonly maxSeconds?: number | undefined;
  readonly onReport?: (one: CaseReport) => void;
}

/** A case that failed alone as well, in a process of its own. */
export interface Failure {
  readonly case: ModelCase;
  readonly problems: readonly string[];
}

export interface FuzzResult {
  readonly numCases: number;
  readonly failures: readonly Failure[];
  /** Cases that failed after others, but not alone: memory or files of earlier ones may have been counted. */
  readonly unconfirmed: readonly Failure[];
}

/** Runs cases `[first, first + numCases)` of a seed. */
export async function fuzzModels(options: FuzzOptions): Promise<FuzzResult> {
  const { seed, first, numCases, onReport, maxCaseMs = MAX_CASE_MS, maxSeconds = Infinity } = options;
  const root = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-bases-"));
  try {
    await writeBases(root);
    const bases = await readBases(root);
    const suspects: CaseReport[] = [];
    const endMs = performance.now() + maxSeconds * 1000;
    let [next, done] = [first, 0];
    const report = (one: CaseReport): void => {
      done++;
      const { kind, way } = one.outcome === "ended" ? caseOf(seed, one.index, bases) : one;
      if (one.problems.length > 0) suspects.push(one);
      onReport?.({ ...one, kind, way });
    };
    const lane = async (): Promise<void> => {
      const worker = new CaseWorker(root, maxCaseMs);
      try {
        while (next < first + numCases && performance.now() < endMs) {
          const from = next;
          next = Math.min(from + BATCH, first + numCases);
          // oxlint-disable-next-line no-await-in-loop -- one batch after the other
          await worker.run(seed, from, next - from, report);
        }
      } finally {
        worker.close();
      }
    };
    const ended = await Promise.allSettled(Array.from({ length: options.workers }, lane));
    for (const result of ended) if (result.status === "rejected") throw result.reason;
    const failures: Failure[] = [];
    const unconfirmed: Failure[] = [];
    for (const { index, problems } of suspects.slice(0, MAX_CONFIRMED)) {
      const one = caseOf(seed, index, bases);
      const again = await alone(seed, index, root, maxCaseMs);
      (again.length > 0 ? failures : unconfirmed).push({ case: one, problems: again.length > 0 ? again : problems });
    }
    return { numCases: done, failures, unconfirmed };
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

export function storedCase({ kind, way, use, files }: ModelCase): Replayed {
  return { kind, way, use, files: [...files].map(fileOf) };
}

/** Runs a case in a process of its own. @returns what is wrong */
async function alone(seed: number, index: number, root: string, maxCaseMs: number): Promise<readonly string[]> {
  const worker = new CaseWorker(root, maxCaseMs);
  const problems: string[] = [];
  try {
    await worker.run(seed, index, 1, (one) => void problems.push(...one.problems));
    return problems;
  } finally {
    worker.close();
  }
}

/** Runs a stored case alone. @returns what is wrong */
export async function replayCase(one: Replayed): Promise<readonly string[]> {
  const root = await mkdtemp(join(tmpdir(), "readme-moe-fuzz-bases-"));
  const worker = new CaseWorker(root, MAX_CASE_MS);
  try {
    await writeBases(root);
    return await worker.replay(one, root);
  } finally {
    worker.close();
    await rm(root, { recursive: true, force: true });
  }
}

/** Stores a failed case for `--replay`. @returns its file */
export async function storeFailure(folder: string, failure: Failure): Promise<string> {
  const { seed, index } = failure.case;
  const file = join(folder, `case-${seed}-${index}.json`);
  await mkdir(folder, { recursive: true });
  await writeFile(file, JSON.stringify({ seed, index, problems: failure.problems, ...storedCase(failure.case) }));
  return file;
}
