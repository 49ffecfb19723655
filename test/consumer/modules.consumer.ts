// ES modules and CommonJS see the same packages.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readManifest, workspacePackages } from "../../tools/packages/workspace.ts";
import { POCKET } from "../support/pocket.ts";
import { FOLDER, node, reached } from "./offline.ts";

const packages = workspacePackages();
const entries = packages.flatMap(({ manifest }) =>
  Object.keys(manifest.exports).map((path) => manifest.name + path.slice(1)),
);
/** Its host is not installed here. */
const HOSTLESS = "@readme-moe/adapter/xenova";

test("what npm installed has no ties to the workspace", () => {
  for (const { manifest } of packages) {
    const installed = readManifest(join(FOLDER, "node_modules", manifest.name));
    expect(installed.version).toBe(manifest.version);
    expect(JSON.stringify(installed)).not.toContain("workspace:");
    expect(JSON.stringify(installed.exports)).not.toContain("/src/");
    const files = ["LICENSE", "README.md", "dist", "package.json"];
    const own = manifest.name === "@readme-moe/kernel" ? [...files, "prebuilt"] : files;
    expect(readdirSync(join(FOLDER, "node_modules", manifest.name)).toSorted()).toEqual(own);
  }
});

describe.each(entries.filter((entry) => entry !== HOSTLESS))("%s", (entry) => {
  test("has the same names for import and require", async () => {
    const program = `
      import(${JSON.stringify(entry)}).then((module) => {
        const required = require(${JSON.stringify(entry)});
        const names = Object.keys(module).filter((name) => name !== "default" && name !== "module.exports");
        console.log(JSON.stringify([names.length, names.filter((name) => module[name] !== required[name])]));
      });`;
    const { code, output, everything } = await node(["--input-type=commonjs", "--eval", program]);
    expect(code, everything).toBe(0);
    const [count, differing] = JSON.parse(output) as [number, readonly string[]];
    expect(count).toBeGreaterThan(0);
    expect(differing).toEqual([]);
  });
});

test("a CommonJS program generates text", async () => {
  const program = `
    const { ReadMeEngine } = require("@readme-moe/engine");
    (async () => {
      const engine = await ReadMeEngine.open(${JSON.stringify(POCKET)});
      let text = "";
      const prompt = "The ship was";
      for await (const chunk of engine.generate({ prompt, params: { maxTokens: 8, temperature: 0 } })) text += chunk.text;
      console.log(text);
      await engine.dispose();
    })();`;
  const { code, output, everything } = await node(["--input-type=commonjs", "--eval", program]);
  expect(code, everything).toBe(0);
  expect(output.trim()).not.toBe("");
});

test("a missing host of the adapter is named", async () => {
  const { code, everything } = await node(["--input-type=module", "--eval", `import "${HOSTLESS}"`]);
  expect(code).toBe(1);
  expect(everything).toContain("Cannot find package '@xenova/transformers'");
});

test.each([
  ["fetch", 'await fetch("http://192.0.2.1/")', "192.0.2.1"],
  ["a name", 'await fetch("https://models.example/")', "models.example"],
  ["a socket", '(await import("node:net")).connect(80, "192.0.2.2")', "192.0.2.2"],
])("a program that asks another machine would be noticed: %s", async (_, program, host) => {
  const file = join(FOLDER, `reached-${host}.txt`);
  const args = ["--input-type=module", "--eval", program];
  const { code } = await node(args, FOLDER, { READ_ME_REACHED: file });
  expect(code).not.toBe(0);
  expect(readFileSync(file, "utf8")).toBe(`${host}\n`);
});

test("nothing was asked of another machine", () => {
  expect(reached()).toEqual([]);
});
