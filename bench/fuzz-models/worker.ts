// A process that opens cases one after the other and reports each. It may die of one, which its parent notices.

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";
import { openModel } from "@readme-moe/model";
import { Chance } from "../fuzz/chance.ts";
import { type Files, type Kind, KINDS, readBases } from "./bases.ts";
import { damagedBytes } from "./byte-damage.ts";
import { caseOf, type Content, type ModelCase } from "./model-case.ts";
import type { FromWorker, ToWorker } from "./messages.ts";
import { outcomeOf, type Places } from "./use-model.ts";

const MAX_CASE_BYTES = 256e6;
/** Larger cases leave garbage behind that is collected before they are opened. */
const COLLECTED_BYTES = 4_000_000;

const [root = "", maxCaseMs] = process.argv.slice(2);
const bases = await readBases(root);
// Removed with the bases, also if this process is killed.
const home = await mkdtemp(join(root, "worker-"));
for (const kind of KINDS) await cp(join(root, kind), join(home, kind), { recursive: true });
const cacheFolder = join(home, "cache-of-models");
const dense = await openModel(join(root, "dense"));

let outside: string | undefined;
for (const event of ["uncaughtException", "unhandledRejection"] as const)
  process.on(
    event,
    (error: unknown) => (outside ??= `${event}: ${String((error as Error)?.stack ?? error).slice(0, 800)}`),
  );
process.on("disconnect", () => process.exit());

// Loads the code, so that the first case is not charged for it.
for (const kind of KINDS)
  await outcomeOf({ seed: 0, index: 0, kind, way: "valid", files: new Map(), use: "served" }, placesOf(kind));
let numOpen = openFiles();

process.on("message", (message: ToWorker) => void answer(message));
send({ type: "ready" });

async function answer(message: ToWorker): Promise<void> {
  if (message.type === "replay") {
    await run({ ...message.case, seed: 0, index: 0, files: new Map<string, Content>(message.files) });
  } else {
    for (let index = message.from; index < message.from + message.count; index++) {
      send({ type: "begin", index });
      // oxlint-disable-next-line no-await-in-loop -- one after the other
      await run(caseOf(message.seed, index, bases));
    }
  }
  send({ type: "end" });
}

async function run(one: ModelCase): Promise<void> {
  const base = bases.get(one.kind) ?? new Map<string, Buffer>();
  const names = [...one.files.keys()];
  let numBytes = 0;
  for (const [name, content] of one.files) {
    put(join(home, one.kind, name), content);
    if (content instanceof Uint8Array) numBytes += content.byteLength;
  }
  one.files.clear();
  // The memory that making the case took is not charged to it.
  if (numBytes > COLLECTED_BYTES) globalThis.gc?.();
  resetPeak();
  const startBytes = process.memoryUsage.rss();
  if (one.way === "cache") damageCache(Chance.ofCase(one.seed, one.index));
  outside = undefined;
  const [startMs, startCpu] = [performance.now(), process.cpuUsage()];
  const { outcome, problem } = await outcomeOf(one, placesOf(one.kind));
  const wallMs = performance.now() - startMs;
  const { user, system } = process.cpuUsage(startCpu);
  // Processor time is firm on a busy machine, but counts helping threads as well.
  const ms = Math.min(wallMs, (user + system) / 1000);
  await setImmediate();
  const problems = [problem, outside, ...judgeCosts(ms, startBytes)].filter((each) => each !== undefined);
  for (const name of names) restore(one.kind, name, base);
  send({ type: "case", index: one.index, kind: one.kind, way: one.way, outcome, ms, problems });
  await rm(cacheFolder, { recursive: true, force: true });
}

function judgeCosts(ms: number, startBytes: number): readonly string[] {
  const problems: string[] = [];
  if (ms > Number(maxCaseMs)) problems.push(`took ${ms.toFixed(0)} ms`);
  const needed = peakBytes() - startBytes;
  if (needed > MAX_CASE_BYTES) problems.push(`needed ${(needed / 1e6).toFixed(0)} MB`);
  const open = openFiles();
  if (open > numOpen) problems.push(`left ${open - numOpen} files open`);
  numOpen = open;
  return problems;
}

/** Forgets the largest memory that the process had. Linux alone can. */
function resetPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // The peak of earlier cases counts as well; a case that fails is tried again alone.
  }
}

function peakBytes(): number {
  try {
    const [, kilobytes] = /VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
    if (kilobytes !== undefined) return Number(kilobytes) * 1024;
  } catch {
    // No Linux.
  }
  return process.resourceUsage().maxRSS * 1024;
}

function placesOf(kind: Kind): Places {
  return { folder: join(home, kind), cacheFolder: kind === "cache" ? join(home, kind) : cacheFolder, dense };
}

function openFiles(): number {
  try {
    return readdirSync("/proc/self/fd").length;
  } catch {
    return 0;
  }
}

function put(path: string, content: Content): void {
  rmSync(path, { recursive: true, force: true });
  mkdirSync(dirname(path), { recursive: true });
  if (content === "nothing") return;
  if (content === "folder") mkdirSync(path);
  else if ("link" in content) symlinkSync(content.link, path);
  else if ("copyOf" in content) copyFileSync(content.copyOf, path);
  else writeFileSync(path, content);
}

function restore(kind: Kind, name: string, base: Files): void {
  put(join(home, kind, name), base.get(name) ?? "nothing");
}

/** Damages a file of the cache that earlier cases have filled. */
function damageCache(chance: Chance): void {
  const folder = join(home, "cache");
  const names = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  if (names.length === 0) return;
  const { parentPath, name } = chance.pick(names.toSorted((a, b) => (a.name < b.name ? -1 : 1)));
  const path = join(parentPath, name);
  const attacks = [
    Buffer.alloc(0),
    Buffer.from("null"),
    Buffer.from(`{"path":${"[".repeat(5000)}`),
    Buffer.from('{"path":7}'),
  ];
  writeFileSync(path, chance.happens(0.4) ? chance.pick(attacks) : damagedBytes(readFileSync(path), chance));
  if (chance.happens(0.2))
    writeFileSync(join(parentPath, chance.pick(["open-x", "open-99999999-0-00", "packed-fuzz-..", "removing-"])), "");
}

function send(message: FromWorker): void {
  process.send?.(message);
}
