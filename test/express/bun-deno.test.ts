// The engine and the web-standard handler on Bun and Deno, where these are installed.

import { execFile, spawnSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { openPocket, PROGRAMS } from "../support/pocket-engine.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { complete } from "../support/complete.ts";

/** Programs by host; `README_MOE_BUN` and `README_MOE_DENO` name others than those on the path. */
const HOSTS = [
  { name: "Bun", program: process.env["README_MOE_BUN"] ?? "bun", flags: ["run"] },
  { name: "Deno", program: process.env["README_MOE_DENO"] ?? "deno", flags: ["run", "-A"] },
] as const;

describe.each(HOSTS)("$name", ({ name, program, flags }) => {
  // The packages are those that were built: these hosts take no conditions of ours.
  const isThere = spawnSync(program, ["--version"]).status === 0 && process.env["README_MOE_TEST_BUILT"] === "1";
  if (!isThere) console.log(`${name} is not installed, or the packages are not built: its test did not run`);

  test.skipIf(!isThere).each(["process", "thread"])(
    "with the engine in a %s answers, streams, binds, refuses, notices clients that leave, and ends (skipped where it is absent)",
    { timeout: 300_000 },
    async (isolation) => {
      const engine = await openPocket(await persistentFolder());
      const { text } = await complete(engine, { prompt: "The ship", params: { maxTokens: 8, temperature: 0 } });
      await engine.dispose();
      const args = [...flags, join(PROGRAMS, "serve-fetch.ts"), POCKET, isolation];
      const { stdout } = await promisify(execFile)(program, args, { timeout: 100_000, killSignal: "SIGKILL" });
      const result = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as { readonly streamed: string };
      expect(result).toEqual({
        text,
        streamed: JSON.stringify(text).slice(1, -1),
        isDone: true,
        bound: expect.stringMatching(/^(yes|no)$/) as string,
        refused: 400,
        leaving: "abort",
        clients: ["address:127.0.0.1"],
      });
    },
  );
});
