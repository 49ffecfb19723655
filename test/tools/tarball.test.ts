// What `npm run check:packages` finds in a tarball.

import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { contentProblems, readTarball } from "../../tools/packages/tarball.ts";
import { closureOf, workspacePackages } from "../../tools/packages/workspace.ts";

const MANIFEST = {
  name: "x",
  version: "1.0.0",
  bin: { x: "./dist/main.js" },
  exports: { ".": { types: "./dist/index.d.ts", default: "./dist/index.js" } },
  dependencies: { y: "1.0.0" },
};
const GOOD: Readonly<Record<string, string>> = {
  LICENSE: "…",
  "README.md": "# x",
  "package.json": JSON.stringify(MANIFEST),
  "dist/index.js": 'export { one } from "./parts/one.js";',
  "dist/index.d.ts": 'export { one } from "./parts/one.ts";\nexport type { Two } from "y";',
  "dist/main.js": 'await import("./index.js");',
  "dist/parts/one.js": "export const one = 1;",
  "dist/parts/one.d.ts": "export declare const one = 1;",
};

function problemsOf(change: Readonly<Record<string, string | undefined>>): readonly string[] {
  const files = Object.entries({ ...GOOD, ...change }).flatMap(([path, text]) =>
    text === undefined ? [] : [[path, Buffer.from(text)] as const],
  );
  return contentProblems(new Map(files));
}

function manifestWith(change: object): Readonly<Record<string, string>> {
  return { "package.json": JSON.stringify({ ...MANIFEST, ...change }) };
}

test("a whole package has no problems", () => {
  expect(problemsOf({})).toEqual([]);
});

test.each([
  ["a licence", { LICENSE: undefined }, "LICENSE: is missing"],
  ["a page", { "README.md": undefined }, "README.md: is missing"],
  ["its command", { "dist/main.js": undefined }, "dist/main.js: is missing"],
  ["its entry's types", { "dist/index.d.ts": undefined }, "dist/index.d.ts: is missing"],
  ["a module", { "dist/parts/one.js": undefined }, "dist/index.js: imports ./parts/one.js, which is not there"],
  ["a type", { "dist/parts/one.d.ts": undefined }, "dist/index.d.ts: imports ./parts/one.ts, which is not there"],
])("a package without %s has exactly this problem", (_, change, problem) => {
  expect(problemsOf(change)).toEqual([problem]);
});

test.each([
  ["sources", { "src/index.ts": "" }, "src/index.ts: should not be there"],
  ["the compiler's notes", { "dist/.tsbuildinfo": "" }, "dist/.tsbuildinfo: should not be there"],
  [
    "ties to the workspace",
    manifestWith({ dependencies: { y: "workspace:*" } }),
    "package.json: asks for packages of the workspace",
  ],
])("a package with %s has exactly this problem", (_, change, problem) => {
  expect(problemsOf(change)).toEqual([problem]);
});

test("exports of sources are found", () => {
  const { exports } = MANIFEST;
  const source = { ".": { "@readme-moe/source": "./src/index.ts", ...exports["."] } };
  expect(problemsOf(manifestWith({ exports: source }))).toContain("package.json: exports sources");
});

test("a tarball's files are read, long paths, too", () => {
  const long = `dist/${"folder/".repeat(15)}file.js`;
  const archive = Buffer.concat([entry("package/package.json", "{}"), entry(`package/${long}`, "x".repeat(700))]);
  const files = readTarball(gzipSync(Buffer.concat([archive, Buffer.alloc(1024)])));
  expect([...files].map(([path, content]) => [path, content.length])).toEqual([
    ["package.json", 2],
    [long, 700],
  ]);
});

test("a package is installed with all that it needs of ours, and no more", () => {
  const packages = workspacePackages();
  const of = (name: string): readonly string[] =>
    closureOf(name, packages).map((needed) => needed.replace("@readme-moe/", ""));
  expect(of("@readme-moe/core")).toEqual(["core"]);
  expect(of("@readme-moe/engine")).toEqual(["core", "grammar", "model", "kernel", "router", "engine"]);
  expect(of("@readme-moe/express")).toEqual(["core", "grammar", "express"]);
});

/** One file of a ustar archive: header and content in blocks of 512 bytes. */
function entry(path: string, content: string): Buffer {
  const cut = path.length <= 100 ? 0 : path.indexOf("/", path.length - 101) + 1;
  const header = Buffer.alloc(512);
  header.write(path.slice(cut), 0);
  header.write(content.length.toString(8).padStart(11, "0"), 124);
  header.write("0", 156);
  header.write("ustar", 257);
  if (cut > 0) header.write(path.slice(0, cut - 1), 345);
  const blocks = Buffer.alloc(Math.ceil(content.length / 512) * 512);
  blocks.write(content);
  return Buffer.concat([header, blocks]);
}
