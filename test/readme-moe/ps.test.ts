// `readme-moe ps`: notes of servers, what servers say, and both together.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { OWN_MARK } from "@readme-moe/model";
import { expect, onTestFinished, test, vi } from "vitest";
import { askServer, memoryIn, reachable } from "../../packages/readme-moe/src/running/ask-server.ts";
import { noteServer, parseNote, readNotes } from "../../packages/readme-moe/src/running/server-notes.ts";
import { POCKET } from "../support/pocket.ts";
import { runCli } from "../support/run-cli.ts";
import { startReady } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const NOTE = { pid: process.pid, url: "http://127.0.0.1:9", model: "pocket", sinceMs: 1000, hasEngineInside: false };

test("a note is read until it is removed, and only its user can read it", async () => {
  const folder = join(await temporaryFolder(), "state");
  const remove = await noteServer(folder, NOTE);
  const [filed] = await readNotes(folder);
  expect(filed?.note).toEqual(NOTE);
  if (process.platform !== "win32") expect((await stat(filed?.path ?? "")).mode & 0o077).toBe(0);
  await remove();
  expect(await readNotes(folder)).toEqual([]);
});

test("notes of ended processes are removed, those of other programs and half ones do no harm", async () => {
  const folder = await temporaryFolder();
  const ended = spawn(process.execPath, ["-e", ""]);
  await once(ended, "close");
  const servers = join(folder, "servers");
  await mkdir(servers);
  const [host] = OWN_MARK.split("-");
  const late = { ...NOTE, sinceMs: 2000 };
  const [first, second] = [`${OWN_MARK}-00000001.json`, `${OWN_MARK}-00000002.json`];
  await writeFile(join(servers, `${host}-${ended.pid}-0badcafe.json`), JSON.stringify(NOTE));
  await writeFile(join(servers, first), JSON.stringify(late));
  await writeFile(join(servers, second), JSON.stringify(NOTE));
  await writeFile(join(servers, `${OWN_MARK}-00000003.json`), '{"pid": 1, "url"');
  await writeFile(join(servers, "notes.txt"), "mine");
  expect((await readNotes(folder)).map(({ note }) => note.sinceMs)).toEqual([1000, 2000]);
  expect((await readdir(servers)).toSorted()).toEqual([first, second, "notes.txt"].toSorted());
});

test("a state folder that cannot be written or read is no failure", async () => {
  const remove = await noteServer("/dev/null/state", NOTE);
  await remove();
  expect(await readNotes("/dev/null/state")).toEqual([]);
});

test.each([
  "",
  "null",
  "[]",
  '"text"',
  "{}",
  JSON.stringify({ ...NOTE, url: "nowhere" }),
  JSON.stringify({ ...NOTE, pid: "1" }),
])("%j is no note", (text) => expect(parseNote(text)).toBeUndefined());

test("memory is that of the server and its engines, once where they share a process", () => {
  const metrics = [
    "# TYPE process_resident_memory_bytes gauge",
    "process_resident_memory_bytes 100",
    'readme_engine_resident_bytes{model="a b} 7"} 20',
    'readme_engine_resident_bytes{model="b"} 3e1',
    "readme_engine_resident_bytes_other 9",
  ].join("\n");
  expect(memoryIn(metrics, false)).toBe(150);
  expect(memoryIn(metrics, true)).toBe(100);
  expect(memoryIn("# nothing", false)).toBeUndefined();
});

test.each([
  ["http://0.0.0.0:80", "http://127.0.0.1:80"],
  ["http://[::]:80", "http://[::1]:80"],
  ["http://10.0.0.1:80", "http://10.0.0.1:80"],
])("a server on %s is asked at %s", (url, asked) => expect(reachable(url)).toBe(asked));

test("a server that is not ready says why; one whose port is another program's or closed is told apart", async () => {
  const message = "No model is ready: the model m is loading";
  const server = createServer((request, response) => {
    if (request.url === "/readyz") response.writeHead(503).end(JSON.stringify({ error: { message } }));
    else response.end("process_resident_memory_bytes 5\n");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const report = await askServer({ ...NOTE, url });
  expect(report).toEqual({ state: message, memoryBytes: 5, running: undefined, queued: undefined });
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(await askServer({ ...NOTE, url })).toBeUndefined();
});

test("ps lists a running server without its keys, and forgets it when it has ended", async () => {
  vi.stubEnv("README_MOE_STATE", await temporaryFolder());
  onTestFinished(() => void vi.unstubAllEnvs());
  expect((await runCli(["ps"])).stdout).toMatch(/^no servers run here/);
  const serving = await startReady(POCKET, { env: { README_MOE_API_KEYS: "sk-very-secret" } });
  const listed = await runCli(["ps", "--json"]);
  expect(listed).toMatchObject({ code: 0, stderr: "" });
  const { servers } = JSON.parse(listed.stdout) as { servers: readonly Record<string, unknown>[] };
  expect(servers).toEqual([
    {
      pid: serving.child.pid,
      url: serving.url,
      model: "pocket",
      state: "ready",
      memory_bytes: expect.any(Number) as unknown,
      since: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) as unknown,
      requests: { running: 0, queued: 0 },
    },
  ]);
  expect(servers[0]?.["memory_bytes"]).toBeGreaterThan(50e6);
  const folder = join(process.env["README_MOE_STATE"] ?? "", "servers");
  const [name = ""] = await readdir(folder);
  expect(await readFile(join(folder, name), "utf8")).not.toContain("secret");
  serving.child.kill("SIGTERM");
  await serving.outcome;
  expect(await readdir(folder)).toEqual([]);
});
