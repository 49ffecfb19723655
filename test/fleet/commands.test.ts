// A fleet as operators start it: a worker, a front, HTTP, and status.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { Engine } from "@readme-moe/core";
import { openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { openFront } from "../../packages/readme-moe/src/fleet/open-front.ts";
import { openEngine } from "../../packages/readme-moe/src/models.ts";
import type { EngineFlags } from "../../packages/readme-moe/src/options.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { killMachine, startMachine, type Machine } from "../support/fleet/machines.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { freePort } from "../support/free-port.ts";
import { POCKET, cases } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { startReady, until } from "../support/serving-process.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";

if (noServer !== undefined) console.log(`The tests of a fleet's commands did not run: ${noServer}`);

const hasOpenSsl = spawnSync("openssl", ["version"]).status === 0;
const PASSWORD = "not-to-be-shown";

test("commands of a fleet say which option is missing or wrong, without the URL", async () => {
  const missing = await runCli(["worker", POCKET]);
  expect(missing).toMatchObject({ code: 2, stderr: expect.stringContaining("--fleet") as string });
  const wrong = await runCli(["fleet", "status", "--fleet", `redis://:${PASSWORD}@host:x`]);
  expect(wrong).toMatchObject({
    code: 2,
    stdout: "",
    stderr: expect.stringMatching(/^error: Expected .*`fleet`/) as string,
  });
  expect(wrong.stderr).not.toContain(PASSWORD);
});

describe.skipIf(noServer !== undefined)("the commands of a fleet (skipped without Valkey)", () => {
  let server: ValkeyServer;
  let machine: Machine;
  let cacheFolder: string;

  beforeAll(async () => {
    cacheFolder = await persistentFolder();
    server = await startValkey({ password: PASSWORD, args: ["--requirepass", PASSWORD] });
    machine = await startMachine({
      fleet: server.url,
      model: POCKET,
      id: "one",
      args: ["--cache-folder", cacheFolder],
    });
  });

  afterAll(async () => {
    await killMachine(machine);
    await server.stop();
  });

  test.skipIf(!hasOpenSsl)(
    "reach a server with TLS that they trust, and no other (skipped without openssl)",
    async () => {
      const folder = await temporaryFolder();
      const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
      const about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"];
      spawnSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, ...about]);
      const port = await freePort();
      const files = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert];
      const args = ["--tls-port", String(port), "--tls-auth-clients", "no", ...files];
      const secured = await startValkey({ args });
      onTestFinished(() => secured.stop());
      const ask = ["fleet", "status", "--fleet", `rediss://localhost:${port}`];
      const trusting = await outcomeOf(startCommand(ask, { env: { NODE_EXTRA_CA_CERTS: cert } }));
      expect(trusting).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(`rediss://localhost:${port}`) as string,
      });
      const other = await outcomeOf(startCommand(ask));
      expect(other).toMatchObject({ code: 1, stderr: expect.stringContaining("ERR_FLEET_UNREACHABLE") as string });
    },
  );

  test("know the same version of a model with the same flags", async () => {
    const folder = await temporaryFolder();
    const model = await openModel(POCKET);
    for (const [seed, name] of ["legal", "poetry"].entries())
      await writeTinyAdapter(join(folder, name), model.config, { seed });
    await model.close();
    const lora = [
      { name: undefined, source: join(folder, "legal") },
      { name: "verse", source: join(folder, "poetry") },
    ];
    const own: readonly Partial<EngineFlags>[] = [
      { lora, expert: "verse" },
      { controlTokensInMessages: "control", context: 100, samplingDefaults: "none" },
    ];
    const { signal } = new AbortController();
    const versions: (string | undefined)[] = [];
    for (const flags of own) {
      const all = { cacheFolder, isolation: "thread", precision: "fp32", threads: 1, ...flags } as EngineFlags;
      const [ours, front] = [
        await openEngine(POCKET, all, signal),
        await openFront(POCKET, { ...all, fleet: server.url }, signal),
      ];
      const names = ["promptVersion", "experts", "contextTokens", "samplingDefaults"] as const;
      const pick = ({ info }: Engine) => Object.fromEntries(names.map((name) => [name, info[name]]));
      expect(pick(front.engine)).toStrictEqual(pick(ours.engine));
      versions.push(front.engine.info.promptVersion);
      await Promise.all([ours.close(), front.close()]);
    }
    expect(new Set(versions).size).toBe(2);
  });

  test("serve over HTTP what one machine serves, and show what they do", async () => {
    const env = { README_MOE_FLEET: server.url };
    const front = await startReady(POCKET, { args: ["--cache-folder", cacheFolder], env });
    const [{ text, greedy_32: rightIds }] = cases as unknown as [{ text: string; greedy_32: number[] }];
    const answer = await until(async () => {
      const response = await front.complete({ prompt: text, max_tokens: 32, temperature: 0, logprobs: 0 });
      const body = (await response.json()) as { usage?: { completion_tokens: number } };
      return response.status === 200 && body;
    });
    expect(answer.usage?.completion_tokens).toBe(rightIds.length);
    const refused = await front.complete({ prompt: text, expert: "x", max_tokens: -1 });
    expect(refused.status).toBe(400);
    // A worker publishes its state once a second.
    const status = await until(async () => {
      const shown = await runCli(["fleet", "status", "--fleet", server.url]);
      return /\none( +[0-9a-f]{8}){2} +0 +\d+/.test(shown.stdout) && shown;
    });
    expect(status.code).toBe(0);
    expect(status.stdout).toContain(`redis://127.0.0.1:${server.port}`);
    expect(status.stdout).toMatch(/\nfront +prompts +workers\n[0-9a-f]{8} +[0-9a-f]{8} +1\n/);
    const json = await until(async () => {
      const { stdout } = await runCli(["fleet", "status", "--json", "--fleet", server.url]);
      const shown = JSON.parse(stdout) as { workers: readonly { counters: { answered: number } }[] };
      return (shown.workers[0]?.counters.answered ?? 0) > 0 && shown;
    });
    expect(json).toMatchObject({ workers: [{ id: "one", counters: { answered: 1, different: 0 } }], queues: [] });
    front.child.kill("SIGTERM");
    const outcome = await front.outcome;
    expect(outcome.code).toBe(0);
    const everything = [status.stdout, JSON.stringify(json), outcome.stdout, outcome.stderr, machine.errors()].join(
      "\n",
    );
    expect(everything).not.toContain(PASSWORD);
    machine.child.kill("SIGTERM");
    expect(await machine.ended).toBe(0);
  });
});
