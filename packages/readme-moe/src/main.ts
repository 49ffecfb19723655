#!/usr/bin/env node
// Imports nothing but Node's own modules before the version is checked: an older Node fails in what it cannot parse.

import { readFileSync } from "node:fs";

const manifest: { readonly engines: { readonly node: string } } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
);
const least = manifest.engines.node.replace(/^>=/, "");
const numbersOf = (version: string): number[] => version.split(".").map(Number);
const [major = 0, minor = 0] = numbersOf(process.versions.node);
const [leastMajor = 0, leastMinor = 0] = numbersOf(least);
if (major < leastMajor || (major === leastMajor && minor < leastMinor)) {
  console.error(
    `error: this is Node ${process.versions.node}, and Node ${least} or newer is needed: https://nodejs.org has it`,
  );
  process.exitCode = 1;
} else {
  const { runCli } = await import("./cli.ts");
  process.exitCode = await runCli(process.argv.slice(2));
}
