// `npm run check:packages`: packs every package and checks the tarballs that users would get.

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { packAll, type PackedPackage } from "./pack.ts";
import { outcomeOf } from "./run.ts";
import { contentProblems, readTarball } from "./tarball.ts";
import { ROOT } from "./workspace.ts";

const ATTW = fileURLToPath(import.meta.resolve("@arethetypeswrong/cli/package.json"));

interface Finding {
  readonly name: string;
  readonly bytes: number;
  readonly numFiles: number;
  readonly problems: readonly string[];
}

async function check({ manifest, tarball }: PackedPackage): Promise<Finding> {
  const packed = await readFile(tarball);
  const files = readTarball(packed);
  const problems = [...contentProblems(files), ...(await lint(packed)), ...(await checkTypes(tarball))];
  return { name: manifest.name, bytes: packed.byteLength, numFiles: files.size, problems };
}

async function lint(packed: Buffer): Promise<readonly string[]> {
  const bytes = packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.byteLength) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: bytes }, strict: true, level: "warning" });
  return messages.map((message) => `publint: ${formatMessage(message, pkg, { color: false }) ?? message.code}`);
}

/** Checks types from ES modules and bundlers. The tool judges `require` by an old rule; the consumer test covers it. */
async function checkTypes(tarball: string): Promise<readonly string[]> {
  const program = join(dirname(ATTW), "dist", "index.js");
  const args = [program, tarball, "--profile", "esm-only", "--no-color", "--no-emoji"];
  const { code, everything } = await outcomeOf(process.execPath, args, { cwd: ROOT });
  return code === 0 ? [] : [`attw:\n${everything.trim()}`];
}

const folder = await mkdtemp(join(tmpdir(), "readme-moe-packages-"));
try {
  const findings: Finding[] = [];
  for (const packed of await packAll(folder)) findings.push(await check(packed));
  for (const { name, bytes, numFiles, problems } of findings) {
    const size = `${numFiles} files, ${Math.round(bytes / 1000)} kB`;
    console.log(`${problems.length === 0 ? "good" : "BAD "}  ${name.padEnd(22)} ${size}`);
    for (const problem of problems) console.log(`      ${problem.replaceAll("\n", "\n      ")}`);
  }
  const numBad = findings.filter(({ problems }) => problems.length > 0).length;
  console.log(`${findings.length - numBad} of ${findings.length} packages are ready`);
  if (numBad > 0) process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true, force: true });
}
