import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { SOURCES } from "../sources.ts";
import type { Answers, Job } from "./jobs.ts";

/** Runs a job in its own process, without threads or memory of other sessions. */
export async function runJob<Kind extends Job["kind"]>(
  job: Extract<Job, { readonly kind: Kind }>,
): Promise<Answers[Kind]> {
  const child = fileURLToPath(new URL("./child.ts", import.meta.url));
  const args = [...SOURCES, child, JSON.stringify(job)];
  const running = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  const texts = { out: "", error: "" };
  running.stdout.on("data", (text: Buffer) => (texts.out += text.toString()));
  running.stderr.on("data", (text: Buffer) => (texts.error += text.toString()));
  const code = await new Promise((resolve, reject) => {
    running.once("error", reject);
    running.once("close", resolve);
  });
  if (code !== 0) throw new Error(`${job.kind}: ${texts.error.trim().split("\n").at(-1) ?? `code ${String(code)}`}`);
  return JSON.parse(texts.out) as Answers[Kind];
}
