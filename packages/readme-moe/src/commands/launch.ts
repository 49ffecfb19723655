import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import { isRecord, ReadMeError } from "@readme-moe/core";
import { resolveStateFolder } from "@readme-moe/model";
import { Argument, Command } from "commander";
import { examples, jsonOption } from "../options.ts";
import { askServer, reachable } from "../running/ask-server.ts";
import { CLIENTS, type EditorSetup, type ProgramSetup, type ServedTo } from "../running/clients.ts";
import { readNotes, type ServerNote } from "../running/server-notes.ts";

const TIMEOUT_MS = 10_000;

interface LaunchFlags {
  readonly url?: string;
  readonly model?: string;
  readonly folder?: string;
  readonly run: boolean;
  readonly json: boolean;
}

/** The end of a client that was started, with its exit code. */
export class ClientEnded extends Error {
  override readonly name = "ClientEnded";
  readonly exitCode: number;

  constructor(exitCode: number) {
    super(`The client ended with ${exitCode}`);
    this.exitCode = exitCode;
  }
}

export function launchCommand(): Command {
  const titles = Object.entries(CLIENTS).map(([name, { title }]) => `${name} (${title})`);
  return new Command("launch")
    .summary("set up a coding agent or an editor for a running server")
    .description(
      "Prints what a coding agent or an editor needs to use a server of `readme-moe serve`: environment variables and a " +
        "command, or the contents of a file of settings. With --run, --folder or arguments after --, starts the agent with them. " +
        `Clients: ${titles.join(", ")}. The first key of README_MOE_API_KEYS is used, if there is one.`,
    )
    .addArgument(new Argument("<client>", "agent or editor").choices(Object.keys(CLIENTS)))
    .argument("[args...]", "arguments for the agent, after --")
    .option("--url <url>", "address of the server (default: the one that runs here)")
    .option("--model <name>", "name of the model (default: the server's first)")
    .option("--folder <folder>", "start the agent in this folder (default: the working directory)")
    .option("--run", "start the agent, and end with its exit code", false)
    .addOption(jsonOption())
    .addHelpText(
      "after",
      examples(
        "readme-moe launch opencode --folder my-project",
        'readme-moe launch qwen-code -- --prompt "What does this project do?"',
        "readme-moe launch zed --url http://llm.example.org:8080",
      ),
    )
    .action(async (name: string, args: readonly string[], flags: LaunchFlags) => {
      const client = CLIENTS[name];
      if (client === undefined) throw new RangeError(`Expected a known client, got ${name}`);
      const { title } = client;
      const setup = client.setUp(await findServed(flags, resolveStateFolder()));
      const { folder = ".", run, json } = flags;
      if (run || args.length > 0 || folder !== ".") {
        if ("program" in setup) return runClient({ ...setup, args: [...setup.args, ...args] }, folder);
        throw new TypeError(`Expected no --run, --folder and arguments for ${title}, which is an editor`);
      }
      if (json) return console.log(JSON.stringify({ client: name, ...setup }));
      printSetup(title, setup);
    });
}

/** Prints what belongs into a terminal or a file to standard output, and what to do with it to standard error. */
function printSetup(title: string, setup: ProgramSetup | EditorSetup): void {
  if (!("program" in setup)) {
    console.error(`${title}: put this into ${setup.file}, beside what is there`);
    return console.log(setup.content);
  }
  console.error(`${title}: these lines start it in a terminal, or the same call with --run (${setup.install})`);
  console.log(commandText(setup));
}

function commandText({ program, args, variables }: ProgramSetup): string {
  const isWindows = process.platform === "win32";
  const lines = Object.entries(variables).map(([name, value]) =>
    isWindows ? `$env:${name} = ${quoted(value)}` : `export ${name}=${quoted(value)}`,
  );
  const words = args.map((word) => (/^[\w./:@=-]+$/.test(word) ? word : quoted(word)));
  return [...lines, [program, ...words].join(" ")].join("\n");
}

/** Quotes a text for PowerShell on Windows, else for a POSIX shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", process.platform === "win32" ? "''" : String.raw`'\''`)}'`;
}

function stay(): void {}

/** Starts a client, and waits for its end. @throws {ClientEnded} with its exit code, if that is not 0 */
async function runClient({ program, args, variables, install }: ProgramSetup, folder: string): Promise<void> {
  if (!existsSync(folder)) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${resolve(folder)}: no such folder`);
  const env = { ...process.env, ...variables };
  // Windows finds npm's programs only through its shell.
  const child = spawn(program, args, {
    cwd: folder,
    stdio: "inherit",
    env,
    shell: process.platform === "win32",
  });
  // A terminal sends Ctrl-C to both processes, and to many a client it is no reason to end.
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on("SIGINT", stay).on("SIGTERM", pass).on("SIGHUP", pass);
  try {
    const exitCode = await new Promise<number>((done, reject) => {
      child.once("error", (cause: NodeJS.ErrnoException) => {
        const reason = cause.code === "ENOENT" ? "is not installed" : `cannot be started (${cause.message})`;
        reject(new ReadMeError("ERR_FILE_NOT_FOUND", `${program}: ${reason}; \`${install}\` installs it`, { cause }));
      });
      child.once("exit", (code, signal) => done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
    });
    if (exitCode !== 0) throw new ClientEnded(exitCode);
  } finally {
    process.off("SIGINT", stay).off("SIGTERM", pass).off("SIGHUP", pass);
  }
}

/**
 * Finds a server's model: that of `--url`, else of the server that runs here.
 * @throws {TypeError | RangeError} naming what is missing: a server, a choice among several, a key, the model
 */
async function findServed({ url: given, model }: LaunchFlags, stateFolder: string): Promise<ServedTo> {
  const url = given === undefined ? await localUrl(stateFolder, model) : baseOf(given);
  const key = process.env["README_MOE_API_KEYS"]?.split(",", 1)[0]?.trim() || "none";
  const models = await modelsOf(url, key);
  const names = models.map(({ id }) => id);
  const found = model === undefined ? models[0] : models.find(({ id }) => id === model);
  if (found !== undefined) return { url, key, model: found.id, contextTokens: found.contextTokens };
  if (model === undefined) throw new TypeError(`Expected a model at ${url}, which has none that is open yet`);
  throw new RangeError(`Expected --model to be one of ${names.join(", ")}, got ${model}`);
}

function baseOf(given: string): string {
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (url?.protocol !== "http:" && url?.protocol !== "https:")
    throw new TypeError(`Expected --url to be an address such as http://127.0.0.1:8080, got ${given}`);
  return `${url.origin}${url.pathname}`.replace(/\/(?:v1\/?)?$/, "");
}

/** Finds the address of the only server of this user, or of the only one with the model. */
async function localUrl(stateFolder: string, model: string | undefined): Promise<string> {
  const notes: ServerNote[] = [];
  for (const { note } of await readNotes(stateFolder)) if ((await askServer(note)) !== undefined) notes.push(note);
  const has = ({ model: first, models = [first] }: ServerNote): boolean => models.includes(model ?? first);
  const wanted = notes.length > 1 && model !== undefined ? notes.filter(has) : notes;
  const [only] = wanted;
  if (only === undefined || wanted.length > 1) {
    const several = notes.map(({ url, model: name }) => `${url} (${name})`).join(", ");
    throw new TypeError(
      notes.length > 0
        ? `Expected --url, since several servers run here: ${several}`
        : "Expected a running server; `readme-moe serve qwen2.5-coder:1.5b` starts one here, and --url names another one",
    );
  }
  return reachable(only.url);
}

interface ListedModel {
  readonly id: string;
  readonly contextTokens: number | undefined;
}

async function modelsOf(url: string, key: string): Promise<readonly ListedModel[]> {
  const headers = { authorization: `Bearer ${key}` };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch(`${url}/v1/models`, { headers, signal }).catch((cause: unknown) => {
    throw new TypeError(`Expected a server at ${url}, got no answer`, { cause });
  });
  if (response.status === 401) throw new TypeError(`Expected a key of ${url} in README_MOE_API_KEYS`);
  const answer: unknown = await response.json().catch(() => undefined);
  const data: unknown = isRecord(answer) ? answer["data"] : undefined;
  if (!Array.isArray(data))
    throw new TypeError(`Expected models at ${url}/v1/models, got the status ${response.status}`);
  return (data as readonly unknown[])
    .filter(isRecord)
    .flatMap(({ id, max_model_len: length }) =>
      typeof id === "string" ? [{ id, contextTokens: typeof length === "number" ? length : undefined }] : [],
    );
}
