// Lists the source files in which code runs during one streamed answer: npm run counts:ways [-- model]
// V8 counts the calls of each function, in the server's process and in the engine's. Linux only.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(import.meta.dirname, "..", "..");
const model = process.argv[2] ?? join(ROOT, "models", "pocket");

interface CoverageReport {
  readonly result: readonly {
    readonly url: string;
    readonly functions: readonly {
      readonly functionName: string;
      readonly ranges: readonly { readonly startOffset: number; readonly count: number }[];
    }[];
  }[];
}

/** Collects the files below `packages/` with a function that ran, from V8's reports. */
function filesThatRan(reports: readonly CoverageReport[]): readonly string[] {
  const files = new Set<string>();
  for (const { url, functions } of reports.flatMap(({ result }) => result)) {
    if (!url.startsWith("file:")) continue;
    const file = relative(ROOT, fileURLToPath(url));
    if (!file.startsWith("packages/")) continue;
    // A module's own code begins at 0 and runs when it is loaded.
    const ran = functions.some(({ ranges: [whole] }) => whole && whole.count > 0 && whole.startOffset > 0);
    if (ran) files.add(file);
  }
  return [...files].toSorted();
}

function reportsIn(folder: string): readonly CoverageReport[] {
  return readdirSync(folder).map((name) => JSON.parse(readFileSync(join(folder, name), "utf8")) as CoverageReport);
}

const processesBelow = (pid: number): readonly number[] => {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return [pid, ...(children === "" ? [] : children.split(" ").map(Number).flatMap(processesBelow))];
};

/** Asks all processes of the server for a report, and waits for them. */
async function takeReports(server: ChildProcess, folder: string): Promise<readonly CoverageReport[]> {
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
  const pids = processesBelow(server.pid ?? 0);
  for (const pid of pids) process.kill(pid, "SIGUSR2");
  while (readdirSync(folder).filter((name) => name.endsWith(".json")).length < pids.length) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await new Promise((resolve) => setTimeout(resolve, 500));
  return reportsIn(folder);
}

const folder = mkdtempSync(join(tmpdir(), "ways-"));
const coverage = mkdtempSync(join(tmpdir(), "ways-coverage-"));
const hook = join(folder, "hook.mjs");
writeFileSync(hook, 'import v8 from "node:v8"; process.on("SIGUSR2", () => v8.takeCoverage());');
const program = [
  'import express from "express";',
  'import { ReadMeEngine } from "@readme-moe/engine";',
  'import { readMe } from "@readme-moe/express";',
  `const engine = await ReadMeEngine.open(${JSON.stringify(model)});`,
  "const app = express();",
  "app.use(readMe({ engine }));",
  "const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));",
].join("\n");
const main = join(ROOT, "tools", "house", ".ways-server.mts");
writeFileSync(main, program);
const flags = ["--conditions=@readme-moe/source", "--import", "tsx", "--import", hook];
const server = spawn(process.execPath, [...flags, main], {
  cwd: ROOT,
  env: { ...process.env, NODE_V8_COVERAGE: coverage },
  stdio: ["ignore", "pipe", "inherit"],
});
const [port] = (await once(server.stdout as NodeJS.ReadableStream, "data")) as [Buffer];

async function ask(path: string, prompt: object): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${String(port).trim()}/v1/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...prompt, stream: true, max_tokens: 8 }),
  });
  const text = await response.text();
  return text.includes("[DONE]");
}

const PATHS = [
  ["chat/completions", { messages: [{ role: "user", content: "The ship was" }] }],
  ["completions", { prompt: "The ship was" }],
] as const;

/** Asks for a chat, or for a completion where the model has no chat template. @returns what asks for the same again */
async function firstAnswer(): Promise<() => Promise<boolean>> {
  for (const [path, prompt] of PATHS) if (await ask(path, prompt)) return () => ask(path, prompt);
  throw new Error("The server did not answer");
}

try {
  // The first answer loads what is loaded lazily; a refused chat is no part of the way of another answer.
  const again = await firstAnswer();
  await takeReports(server, coverage);
  await again();
  const files = filesThatRan(await takeReports(server, coverage));
  const counts = new Map<string, number>();
  for (const file of files) {
    const name = file.split("/")[1] ?? "";
    counts.set(name, (counts.get(name) ?? 0) + 1);
    console.log(file);
  }
  console.log({ ...Object.fromEntries(counts), all: files.length });
} finally {
  server.kill();
  rmSync(main);
  rmSync(folder, { recursive: true });
  rmSync(coverage, { recursive: true, force: true });
}
