import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, onTestFinished } from "vitest";

/** A new empty folder that is removed when the running test ends. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-test-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A new empty folder that is removed when the running file of tests ends. */
export async function persistentFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "readme-moe-test-"));
  afterAll(() => rm(folder, { recursive: true, force: true }));
  return folder;
}
