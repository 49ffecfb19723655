// Engines of the pocket model, here and in processes of their own, that have to answer as PyTorch does.

import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { expect } from "vitest";
import { complete } from "./complete.ts";
import { outcomeOf, startNode, type Surroundings } from "./node-process.ts";
import { cases, greedy, POCKET, rightAnswers, type Report } from "./pocket.ts";

export const ISOLATIONS = ["thread", "process"] as const;
type Isolation = (typeof ISOLATIONS)[number];

/** Where the programs of these processes are. */
export const PROGRAMS: string = join(import.meta.dirname, "programs");

export function openPocket(cacheFolder: string, isolation: Isolation = "thread"): Promise<ReadMeEngine> {
  return ReadMeEngine.open(POCKET, { precision: "fp32", cacheFolder, isolation, threads: 2 });
}

export async function answers(engine: ReadMeEngine): Promise<readonly (readonly number[])[]> {
  return Promise.all(cases.map(async ({ text }) => (await complete(engine, { prompt: text, params: greedy })).ids));
}

/** Opens an engine, expects right answers of it, and closes it. @returns why its graph is not cached */
export async function expectRightAnswers(cacheFolder: string, isolation?: Isolation): Promise<string | undefined> {
  const engine = await openPocket(cacheFolder, isolation);
  expect(await answers(engine)).toEqual(rightAnswers);
  await engine.dispose();
  return engine.cacheFailure;
}

/** The same in a process of its own. */
export async function expectRightReport(
  cacheFolder: string,
  isolation: Isolation,
  around: Surroundings,
): Promise<Report> {
  const { stdout, ...rest } = await outcomeOf(startNode([join(PROGRAMS, "answer.ts"), cacheFolder, isolation], around));
  expect(rest).toEqual({ code: 0, signal: null, stderr: "" });
  const report = JSON.parse(stdout) as Report;
  expect(report.ids).toEqual(rightAnswers);
  return report;
}
