// Tests `readme-moe launch`: its printed settings, and started clients. The clients are programs of this test that call the
// server by these settings.

import { spawn } from "node:child_process";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { parse } from "yaml";
import { CLIENTS, type EditorSetup, type ProgramSetup } from "../../packages/readme-moe/src/running/clients.ts";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { type ServeSetup, type ServingProcess, startReady } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SERVED = { url: "http://127.0.0.1:8080", model: "qwen2.5-coder:1.5b", key: "none", contextTokens: 32_768 };

function programOf(name: string, change: Partial<typeof SERVED> = {}): ProgramSetup {
  return CLIENTS[name]?.setUp({ ...SERVED, ...change }) as ProgramSetup;
}

function contentOf(name: string): string {
  const setup = CLIENTS[name]?.setUp(SERVED) as EditorSetup;
  return setup.content;
}

describe("a client is told the server's address, model and key:", () => {
  test("Qwen Code, by the variables of OpenAI's API, without limits of time", () => {
    const { program, args, variables } = programOf("qwen-code", { key: "sk-1" });
    expect([program, ...args]).toEqual(["qwen", "--auth-type", "openai"]);
    expect(variables).toMatchObject({
      OPENAI_API_KEY: "sk-1",
      OPENAI_BASE_URL: "http://127.0.0.1:8080/v1",
      OPENAI_MODEL: "qwen2.5-coder:1.5b",
      QWEN_CODE_MAX_OUTPUT_TOKENS: "4096",
      QWEN_CODE_API_TIMEOUT_MS: "0",
    });
  });

  test("OpenCode, by a config in a variable", () => {
    const { variables } = programOf("opencode");
    expect(JSON.parse(variables["OPENCODE_CONFIG_CONTENT"] ?? "")).toMatchObject({
      provider: {
        "readme-moe": {
          npm: "@ai-sdk/openai-compatible",
          options: { baseURL: "http://127.0.0.1:8080/v1", apiKey: "none" },
          models: { "qwen2.5-coder:1.5b": { limit: { context: 32_768, output: 4096 } } },
        },
      },
      model: "readme-moe/qwen2.5-coder:1.5b",
      small_model: "readme-moe/qwen2.5-coder:1.5b",
    });
  });

  test("Aider, by its own name for OpenAI's API", () => {
    const { args, variables } = programOf("aider");
    expect(args.slice(0, 2)).toEqual(["--model", "openai/qwen2.5-coder:1.5b"]);
    expect(variables).toEqual({ OPENAI_API_KEY: "none", OPENAI_API_BASE: "http://127.0.0.1:8080/v1" });
  });

  test("Claude Code, by the variables of Anthropic's API, every size of model the same", () => {
    const { variables } = programOf("claude-code", { contextTokens: 8192 });
    expect(variables).toMatchObject({
      ANTHROPIC_BASE_URL: "http://127.0.0.1:8080",
      ANTHROPIC_AUTH_TOKEN: "none",
      ANTHROPIC_API_KEY: "",
      CLAUDE_CODE_MAX_OUTPUT_TOKENS: "2048",
    });
    const models = Object.entries(variables).filter(([name]) => /^ANTHROPIC_.*MODEL$/.test(name));
    expect(models.map(([, model]) => model)).toEqual(Array.from({ length: 4 }, () => SERVED.model));
  });

  test("Continue, by YAML with a model for chats and one that completes", () => {
    const { models, schema } = parse(contentOf("continue")) as { models: readonly object[]; schema: string };
    expect(schema).toBe("v1");
    const same = { model: SERVED.model, apiBase: "http://127.0.0.1:8080/v1/", apiKey: "none" };
    expect(models).toMatchObject([
      { ...same, provider: "openai", roles: ["chat", "edit", "apply"], capabilities: ["tool_use"] },
      { ...same, provider: "mistral", roles: ["autocomplete"] },
    ]);
    expect(models[0]).toMatchObject({ defaultCompletionOptions: { contextLength: 32_768 } });
  });

  test("Zed and llama.vscode, by JSON of their settings", () => {
    expect(JSON.parse(contentOf("zed"))).toMatchObject({
      language_models: {
        openai_compatible: {
          "readme-moe": {
            api_url: "http://127.0.0.1:8080/v1",
            available_models: [{ name: SERVED.model, max_tokens: 32_768 }],
          },
        },
      },
      edit_predictions: { open_ai_compatible_api: { api_url: "http://127.0.0.1:8080/v1/completions" } },
    });
    expect(JSON.parse(contentOf("llama-vscode"))).toMatchObject({ "llama-vscode.endpoint": "http://127.0.0.1:8080" });
  });

  test("every client, also while the size of the context is not known", () => {
    for (const { setUp } of Object.values(CLIENTS)) {
      const text = JSON.stringify(setUp({ ...SERVED, contextTokens: undefined }));
      expect(text).toContain(SERVED.model);
      expect(text).not.toMatch(/undefined|null|NaN/);
    }
  });
});

beforeEach(async () => {
  vi.stubEnv("README_MOE_STATE", await temporaryFolder());
  vi.stubEnv("README_MOE_API_KEYS", undefined);
});
afterEach(() => void vi.unstubAllEnvs());

function serve(setup?: ServeSetup): Promise<ServingProcess> {
  return startReady(POCKET, setup);
}

/** A client that asks the server for its models, and prints them with its arguments. */
const CLIENT = `#!/usr/bin/env node
const { OPENAI_BASE_URL, OPENAI_API_KEY } = process.env;
fetch(OPENAI_BASE_URL + "/models", { headers: { authorization: "Bearer " + OPENAI_API_KEY } })
  .then((answer) => answer.json())
  .then(({ data }) => {
    const [models, folder] = [data.map(({ id }) => id), require("node:path").basename(process.cwd())];
    console.log(JSON.stringify({ models, folder, args: process.argv.slice(2) }));
    process.exitCode = Number(process.argv.at(-1)) || 0;
  });
`;

/** Puts the client into the path as `qwen`. */
async function installQwen(program: string = CLIENT): Promise<void> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "qwen"), program);
  await chmod(join(folder, "qwen"), 0o755);
  vi.stubEnv("PATH", `${folder}${delimiter}${process.env["PATH"]}`);
}

describe("launch", () => {
  test("prints what a shell runs, for the server that runs here", async () => {
    await serve({ args: ["--name", "it's me"] });
    await installQwen();
    const { code, stdout, stderr } = await runCli(["launch", "qwen-code"]);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(String.raw`export OPENAI_MODEL='it'\''s me'`);
    expect(stderr).toContain("npm install --global @qwen-code/qwen-code");
    const script = join(await temporaryFolder(), "launch.sh");
    await writeFile(script, stdout);
    const shell = await outcomeOf(spawn("sh", [script]));
    expect(JSON.parse(shell.stdout)).toMatchObject({ models: ["it's me"], args: ["--auth-type", "openai"] });
  });

  test("starts a client with its arguments and ours, and ends with its exit code", async () => {
    await serve({ env: { README_MOE_API_KEYS: "sk-one,sk-two" } });
    await installQwen();
    vi.stubEnv("README_MOE_API_KEYS", "sk-one,sk-two");
    const good = await outcomeOf(startCommand(["launch", "qwen-code", "--", "--prompt", "two words"]));
    expect(good).toMatchObject({ code: 0, stderr: "" });
    const args = ["--auth-type", "openai", "--prompt", "two words"];
    expect(JSON.parse(good.stdout)).toMatchObject({ models: ["pocket"], args });
    const project = join(await temporaryFolder(), "my project");
    const nowhere = await outcomeOf(startCommand(["launch", "qwen-code", "--folder", project]));
    expect(nowhere).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringContaining(`${project}: no such folder`),
    });
    await mkdir(project);
    const inside = await outcomeOf(startCommand(["launch", "qwen-code", "--folder", project]));
    expect(JSON.parse(inside.stdout)).toMatchObject({ folder: "my project" });
    expect(await outcomeOf(startCommand(["launch", "qwen-code", "--run", "--", "7"]))).toMatchObject({ code: 7 });
    await installQwen("#!/bin/sh\nkill -TERM $$\n");
    expect(await outcomeOf(startCommand(["launch", "qwen-code", "--run"]))).toMatchObject({ code: 143 });
  });

  test("says what is missing: a key, the model, the program, a server", async () => {
    const { url } = await serve({ env: { README_MOE_API_KEYS: "sk-one" } });
    const refused = await runCli(["launch", "aider"]);
    expect(refused).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("README_MOE_API_KEYS") });
    vi.stubEnv("README_MOE_API_KEYS", "sk-one");
    const other = await runCli(["launch", "aider", "--url", `${url}/v1`, "--model", "other"]);
    expect(other).toMatchObject({ code: 2, stderr: expect.stringContaining("one of pocket, got other") });
    vi.stubEnv("PATH", await temporaryFolder());
    const absent = await outcomeOf(startCommand(["launch", "opencode", "--run"]));
    expect(absent).toMatchObject({ code: 1, stdout: "" });
    expect(absent.stderr).toContain("opencode: is not installed; `npm install --global opencode-ai` installs it");
    const editor = await runCli(["launch", "zed", "--run"]);
    expect(editor).toMatchObject({ code: 2, stderr: expect.stringContaining("which is an editor") });
  });

  test("needs a server, and a choice where several run", async () => {
    const none = await runCli(["launch", "aider"]);
    expect(none).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("readme-moe serve") });
    const folder = join(await temporaryFolder(), "chatting");
    await writeChattingPocket(folder);
    const [first, second] = await Promise.all([serve({ args: ["--name", "one"] }), serve({ args: [folder] })]);
    const several = await runCli(["launch", "aider"]);
    expect(several).toMatchObject({ code: 2, stderr: expect.stringContaining(`${first.url} (one)`) });
    const chosen = await runCli(["launch", "aider", "--model", "one", "--json"]);
    expect(JSON.parse(chosen.stdout)).toMatchObject({
      client: "aider",
      variables: { OPENAI_API_BASE: `${first.url}/v1` },
    });
    // The second server has two models, and this is not its first one.
    const other = await runCli(["launch", "aider", "--model", "chatting", "--json"]);
    const args = expect.arrayContaining(["openai/chatting"]) as unknown;
    expect(JSON.parse(other.stdout)).toMatchObject({ args, variables: { OPENAI_API_BASE: `${second.url}/v1` } });
  });

  test.each([
    [["launch", "emacs"], /Allowed choices are qwen-code, /],
    [["launch", "aider", "--url", "ftp://x"], /Expected --url to be an address .*got ftp:/],
    [["launch", "aider", "--url", "http://127.0.0.1:9"], /Expected a server at http:\/\/127\.0\.0\.1:9, got no answer/],
  ])("refuses %j", async (args, message) => {
    expect(await runCli(args)).toMatchObject({ code: 2, stdout: "", stderr: expect.stringMatching(message) });
  });
});

test("the page on coding agents and that on editors have every client", async () => {
  const pages = await Promise.all(
    ["use-a-coding-agent", "use-in-editors"].map((name) => readFile(`docs/how-to/${name}.md`, "utf8")),
  );
  for (const name of Object.keys(CLIENTS)) expect(pages.join("")).toContain(`readme-moe launch ${name}`);
});
