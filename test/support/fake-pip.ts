// Programs that take pip's place on PATH.

import { chmod, mkdtemp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { vi } from "vitest";

/**
 * Makes `name` the only program on PATH, until variables are unstubbed. Runs `body` with `args`, `folder` (where the
 * wheel is to go) and `fs`.
 */
export async function onlyProgram(folder: string, name: string, body: string): Promise<void> {
  const path = await mkdtemp(join(folder, "path-"));
  const script = `#!${process.execPath}
const fs = require("node:fs");
const args = process.argv.slice(2);
const folder = args[args.indexOf("--dest") + 1];
${body}
`;
  await writeFile(join(path, name), script);
  await chmod(join(path, name), 0o755);
  vi.stubEnv("PATH", path);
}

/** Leaves a copy of a wheel, as pip does, and a line of its call in `<wheel>.calls`. */
export function leavesWheel(wheel: string): string {
  return `fs.copyFileSync(${JSON.stringify(wheel)}, folder + "/llm_tiny-1.0-py3-none-any.whl");
fs.appendFileSync(${JSON.stringify(`${wheel}.calls`)}, args.filter((arg) => arg !== folder).join(" ") + "\\n");`;
}
