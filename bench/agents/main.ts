// Coding agents from npm on small tasks: how many end without an error of the server, how many are solved, and when the
// first tokens come.
//
//   npm run bench:agents -- [model] [--url URL --name NAME] [--agents qwen-code,opencode] [--tasks 5] [--minutes 20]
//     [--out FILE.json]
//
// With `--url` the agents work with a server that runs already, such as a peer's.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { parseArgs, stripVTControlCharacters } from "node:util";
import { CLIENTS } from "../../packages/readme-moe/src/running/clients.ts";
import { markdownTable } from "../kit/report.ts";
import { type Exchange, record } from "./recorder.ts";
import { type AgentTask, TASKS, writeTask } from "./tasks.ts";

interface Endpoint {
  readonly url: string;
  readonly model: string;
  readonly contextTokens: number | undefined;
}

const CLIENTS_FOLDER = join(import.meta.dirname, "clients");
const INSTALLED = join(CLIENTS_FOLDER, "node_modules");
const PROGRAMS = [join(INSTALLED, ".bin"), join(INSTALLED, `opencode-linux-${process.arch}`, "bin")];

/** Arguments with which each agent works on one prompt without asking. */
const HEADLESS: Readonly<Record<string, (prompt: string) => readonly string[]>> = {
  "qwen-code": (prompt) => ["--yolo", prompt],
  opencode: (prompt) => ["run", "--auto", prompt],
};

/** Keeps OpenCode from looking for updates and lists of models. */
const OFFLINE = { OPENCODE_DISABLE_AUTOUPDATE: "1", OPENCODE_DISABLE_MODELS_FETCH: "1" };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string" },
    name: { type: "string" },
    agents: { type: "string", default: Object.keys(HEADLESS).join(",") },
    tasks: { type: "string", default: String(TASKS.length) },
    minutes: { type: "string", default: "20" },
    out: { type: "string" },
  },
});

interface Outcome {
  readonly agent: string;
  readonly task: string;
  readonly isSolved: boolean;
  /** Exit code; null when its time was over. */
  readonly code: number | null;
  readonly seconds: number;
  readonly exchanges: readonly Exchange[];
  readonly said: string;
}

if (!existsSync(INSTALLED)) {
  say("installing the agents, once");
  // Their optional packages are for other platforms, so that no lockfile fits all.
  const args = ["install", "--no-package-lock", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"];
  execFileSync("npm", args, { cwd: CLIENTS_FOLDER, stdio: ["ignore", 2, "inherit"] });
}
const folder = await mkdtemp(join(tmpdir(), "readme-moe-agents-"));
try {
  await using server = await endpoint();
  const outcomes: Outcome[] = [];
  for (const agent of values.agents.split(",")) {
    for (const task of TASKS.slice(0, Number(values.tasks))) {
      const outcome = await work(agent, task, server);
      outcomes.push(outcome);
      say(rowOf(outcome).join(" | "));
      if (values.out !== undefined) await writeFile(values.out, JSON.stringify(outcomes, undefined, 2));
    }
  }
  const times = ["headers, ms", "first token, s", "longest silence, s"];
  const columns = ["agent", "task", "solved", "seconds", "requests", "errors", ...times];
  console.log(markdownTable({ title: "Agents", columns, rows: outcomes.map(rowOf) }));
} finally {
  await rm(folder, { recursive: true, force: true });
}

/** Starts `readme-moe serve` with its defaults but for the disk, unless the command names a server. */
async function endpoint(): Promise<Endpoint & AsyncDisposable> {
  const { url, name = "model" } = values;
  if (url !== undefined) {
    return { url, model: name, contextTokens: 32_768, [Symbol.asyncDispose]: async () => undefined };
  }
  const [model] = positionals;
  if (model === undefined) throw new TypeError("Expected a model, or `--url`");
  const main = join(import.meta.dirname, "..", "..", "packages", "readme-moe", "dist", "main.js");
  // Prompts of an earlier run would be read from disk.
  const flags = ["--port", "0", "--name", name, "--prefix-disk", "0"];
  const child = spawn(process.execPath, [main, "serve", model, ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout.setEncoding("utf8"), "data")) as [string];
  const found = /(http:\/\/\S+)\/v1/.exec(line)?.[1];
  if (found === undefined) throw new Error(`The server printed ${line}`);
  while (!(await fetch(`${found}/readyz`)).ok) await new Promise((resolve) => setTimeout(resolve, 200));
  const models = (await (await fetch(`${found}/v1/models`)).json()) as {
    readonly data: readonly { readonly max_model_len?: number }[];
  };
  return {
    url: found,
    model: name,
    contextTokens: models.data[0]?.max_model_len,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await once(child, "exit");
    },
  };
}

async function work(agent: string, task: AgentTask, server: Endpoint): Promise<Outcome> {
  const [client, argsFor] = [CLIENTS[agent], HEADLESS[agent]];
  if (!client || !argsFor)
    throw new RangeError(`Expected agents among ${Object.keys(HEADLESS).join(", ")}, got \`${agent}\``);
  const home = await mkdtemp(join(folder, `${agent}-`));
  const place = join(home, "project");
  await writeTask(place, task);
  await using recorder = await record(server.url);
  const setup = client.setUp({
    url: recorder.url,
    key: "none",
    model: server.model,
    contextTokens: server.contextTokens,
  });
  if (!("program" in setup)) throw new TypeError(`Expected an agent, got the editor ${agent}`);
  const { program, args, variables } = setup;
  const startMs = performance.now();
  const child = spawn(program, [...args, ...argsFor(task.prompt)], {
    cwd: place,
    // The agent's own files stay out of the user's home.
    env: { PATH: [...PROGRAMS, process.env["PATH"]].join(delimiter), HOME: home, ...variables, ...OFFLINE },
    stdio: ["ignore", "pipe", "pipe"],
    // Agents start processes of their own, which end with the group.
    detached: true,
  });
  const limit = setTimeout(() => process.kill(-(child.pid ?? 0), "SIGKILL"), Number(values.minutes) * 60_000);
  let said = "";
  for (const output of [child.stdout, child.stderr]) output.on("data", (piece: Buffer) => (said += piece.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  clearTimeout(limit);
  const seconds = (performance.now() - startMs) / 1000;
  said = stripVTControlCharacters(said);
  const { exchanges } = recorder;
  return { agent, task: task.name, isSolved: await task.isSolved(place, said), code, seconds, exchanges, said };
}

function rowOf({ agent, task, isSolved, code, seconds, exchanges }: Outcome): readonly string[] {
  const errors = exchanges.filter(({ status, hasError }) => hasError || status >= 400).length;
  const solved = code === 0 ? (isSolved ? "yes" : "no") : `exit ${code ?? "at its limit"}`;
  const list = (figure: (exchange: Exchange) => number, digits: number): string =>
    exchanges.map((one) => figure(one).toFixed(digits)).join(", ");
  return [
    agent,
    task,
    solved,
    seconds.toFixed(0),
    String(exchanges.length),
    String(errors),
    list(({ headersMs }) => headersMs, 0),
    list(({ firstTokenMs }) => firstTokenMs / 1000, 1),
    Math.max(0, ...exchanges.map(({ longestSilenceMs }) => longestSilenceMs / 1000)).toFixed(1),
  ];
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
