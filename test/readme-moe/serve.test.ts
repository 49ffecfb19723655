// `readme-moe serve` as a user runs it, in another process.

import { execFile, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import express from "express";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { outcomeOf, startCommand, type Outcome } from "../support/node-process.ts";
import { Scrape } from "../support/prometheus.ts";
import { openSocket, postHead, readAll } from "../support/raw-http.ts";
import { writeReadingModel } from "../support/reading-model.ts";
import { runCli } from "../support/run-cli.ts";
import { ENDLESS, ENDLESS_TOKENS, listen } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let model: string;
beforeAll(async () => {
  model = join(await persistentFolder(), "tiny");
  await writeReadingModel(model, ENDLESS);
});

interface Serving {
  readonly url: string;
  readonly child: ChildProcess;
  readonly outcome: Promise<Outcome>;
}

/** Starts a server on a free port and waits until it listens. */
async function serve(args: readonly string[] = [], env: Readonly<Record<string, string>> = {}): Promise<Serving> {
  const child = startCommand(["serve", model, "--port", "0", "--threads", "1", ...args], { env });
  const outcome = outcomeOf(child);
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await outcome;
  });
  if (!child.stdout) throw new Error("Expected standard output");
  const lines = createInterface({ input: child.stdout });
  const [line] = (await once(lines, "line")) as [string];
  const [url] = /http:\/\/[\d.:]+/.exec(line) ?? [];
  if (url === undefined) throw new Error(`Expected an address, got ${line}`);
  return { url, child, outcome };
}

async function serveReady(args?: readonly string[], env?: Readonly<Record<string, string>>): Promise<Serving> {
  const serving = await serve(args, env);
  // It listens before the model is open.
  while ((await fetch(`${serving.url}/health`)).status !== 200);
  return serving;
}

function complete(url: string, body: object = {}, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ prompt: "one two", max_tokens: 3, ignore_eos: true, ...body }),
  });
}

describe("a server", () => {
  test("prints its address, serves the model by its folder's name, and stops in order on a signal", async () => {
    const { url, child, outcome } = await serveReady(["--alias", "gpt-4"]);
    const models = (await (await fetch(`${url}/v1/models`)).json()) as {
      readonly data: readonly { readonly id: string }[];
    };
    expect(models.data.map(({ id }) => id)).toContain("tiny");
    for (const name of ["tiny", "gpt-4", undefined]) expect((await complete(url, { model: name })).status).toBe(200);
    const streamed = await complete(url, { max_tokens: 200, stream: true });
    child.kill("SIGTERM");
    expect(await streamed.text()).toMatch(/data: \[DONE\]\n\n$/);
    const { code, stdout, stderr } = await outcome;
    expect(code).toBe(0);
    expect(stdout).toBe(`tiny at ${url}/v1\n`);
    expect(stderr).toMatch(/^memory: [^\n]*\nstopping; running requests: \d+\n$/);
  });

  test("answers requests to localhost only without keys, and unknown paths with an API error", async () => {
    const { url } = await serveReady();
    const { port } = new URL(url);
    const socket = await openSocket(Number(port));
    socket.write("GET /v1/models HTTP/1.1\r\nHost: rebound.example.org\r\nConnection: close\r\n\r\n");
    expect(await readAll(socket)).toMatch(/^HTTP\/1\.1 403 [^]*forbidden_host/);
    const unknown = await fetch(`${url}/elsewhere`);
    expect([unknown.status, await unknown.json()]).toMatchObject([404, { error: { code: "unknown_url" } }]);
  });

  test("does not listen for other machines without keys, unless a flag allows it", async () => {
    const outcome = await runCli(["serve", model, "--port", "0", "--host", "0.0.0.0"]);
    expect([outcome.code, outcome.stderr]).toEqual([2, expect.stringContaining("--allow-anyone")]);
    const { url } = await serveReady(["--host", "0.0.0.0", "--allow-anyone"]);
    expect((await complete(url)).status).toBe(200);
  });

  test("ends requests at the deadline, also on Ctrl-C", async () => {
    const { url, child, outcome } = await serveReady(["--drain-ms", "0"]);
    const streamed = await complete(url, { max_tokens: ENDLESS_TOKENS, stream: true });
    child.kill("SIGINT");
    const text = await streamed.text().catch(() => "cut");
    expect(text).not.toContain("[DONE]");
    expect((await outcome).code).toBe(0);
  });

  test("ends at once at the second signal", async () => {
    const { url, child, outcome } = await serveReady(["--notice-ms", "100000"]);
    child.kill("SIGTERM");
    while ((await fetch(`${url}/readyz`)).status !== 503);
    expect((await complete(url)).status).toBe(200);
    child.kill("SIGTERM");
    expect((await outcome).code).toBe(143);
  });

  test("logs answers as lines of JSON, and reads keys from the environment", async () => {
    const env = { README_MOE_API_KEYS: "sk-one,sk-two" };
    const flags = ["--json", "--name", "mine", "--requests-per-minute", "2", "--vllm-metrics", "--trust-proxy", "1"];
    const { url, child, outcome } = await serveReady(flags, env);
    expect((await complete(url)).status).toBe(401);
    const headers = { authorization: "Bearer sk-two", "x-request-id": "r-1" };
    const answered = await complete(url, {}, headers);
    expect([answered.status, answered.headers.get("x-request-id")]).toEqual([200, "r-1"]);
    expect(answered.headers.get("x-ratelimit-remaining-requests")).toBe("1");
    const metrics = new Scrape(await (await fetch(`${url}/metrics`)).text());
    expect(metrics.value("vllm:time_to_first_token_seconds_count", { model_name: "mine" })).toBe(1);
    child.kill("SIGTERM");
    const { code, stdout, stderr } = await outcome;
    expect([code, stderr]).toEqual([0, ""]);
    const entries = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly event: string });
    expect(entries[0]).toMatchObject({ event: "server:listening", url, model: "mine" });
    const answers = entries.filter(({ event }) => event === "request:answered");
    expect(answers).toMatchObject([
      { status: 401 },
      { status: 200, requestId: "r-1", key: "key-2", handler: "/v1/completions" },
    ]);
    expect(entries.at(-1)).toMatchObject({ event: "server:draining" });
    expect(stdout).not.toContain("sk-");
  });

  test("opens its engine again when the engine's process is killed", async () => {
    const { url, child } = await serveReady(["--json", "--isolation", "process"]);
    if (!child.stdout) throw new Error("Expected standard output");
    const events = createInterface({ input: child.stdout });
    const restarted = new Promise<string>((resolve) => {
      events.on("line", (line) => line.includes("engine:restarted") && resolve(line));
    });
    const { stdout } = await promisify(execFile)("ps", ["-o", "pid=", "--ppid", `${child.pid}`]);
    for (const pid of stdout.trim().split(/\s+/)) process.kill(Number(pid), "SIGKILL");
    expect(JSON.parse(await restarted)).toMatchObject({ name: "tiny", attempts: 1 });
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect((await complete(url)).status).toBe(200);
    const metrics = new Scrape(await (await fetch(`${url}/metrics`)).text());
    expect(metrics.value("readme_engine_restarts_total", { model_name: "tiny" })).toBe(1);
  });
});

function get(target: string, ...more: readonly string[]): string {
  return [`GET ${target} HTTP/1.1`, "Host: localhost", ...more, "", ""].join("\r\n");
}

// Express skips all of its handlers for such a request.
test("targets that are no URL get API errors in their turn, and their number is limited", async () => {
  const { url } = await serveReady();
  const port = Number(new URL(url).port);

  const asking = await openSocket(port);
  asking.write(get("http://[::1") + get("/livez") + get("http://[::1", "Connection: close"));
  const answers = (await readAll(asking)).split("HTTP/1.1 ").slice(1);
  expect(answers.map((answer) => Number(answer.slice(0, 3)))).toEqual([400, 200, 400]);
  for (const answer of [answers[0], answers[2]]) {
    const { error } = JSON.parse(answer?.split("\r\n\r\n")[1] ?? "") as { error: object };
    expect(error).toMatchObject({ type: "invalid_request_error", code: "invalid_request", param: null });
  }

  const greedy = await openSocket(port);
  greedy.write(postHead("/v1/completions", 1000).replace("Connection: close\r\n", ""));
  greedy.write("x".repeat(1000) + get("http://[::1").repeat(40));
  expect((await readAll(greedy)).split("HTTP/1.1 ").length).toBeLessThan(20);
});

describe("a call that fails", () => {
  test("a missing model ends the server with a message", async () => {
    const { code, stderr } = await runCli(["serve", "/nowhere/at-all", "--port", "0"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: \/nowhere\/at-all.*\(ERR_FILE_NOT_FOUND\)\n$/);
  });

  test("a taken address ends the server with a message", async () => {
    await using taken = await listen(express());
    const { code, stderr } = await runCli(["serve", model, "--port", `${taken.port}`, "--threads", "1"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: Cannot listen on .*EADDRINUSE.*; choose another port with --port.*\n$/);
  });

  test.each([
    [["--api-key", "two words"], "`key-1`"],
    [["--alias", "tiny"], "tiny"],
  ])("names wrong flags: %j", async (flags, named) => {
    const { code, stderr } = await runCli(["serve", model, ...flags]);
    expect(code).toBe(2);
    expect(stderr).toContain(named);
    expect(stderr).not.toContain("two words");
  });
});
