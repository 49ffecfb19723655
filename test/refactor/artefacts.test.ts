// Stores of artefacts: a folder, and a store like S3 that checks signatures.

import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ArtefactStore } from "@readme-moe/core";
import { openArtefacts } from "@readme-moe/refactor";
import { describe, expect, onTestFinished, test } from "vitest";
import { startS3 } from "../support/s3-server.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const LOGIN = { accessKeyId: "someone", secretAccessKey: "not-to-be-shown", region: "eu-north-9" };
const KEY = `${"0123456789abcdef".repeat(4)}.pass-3-0.states`;

function environment(endpoint: string): NodeJS.ProcessEnv {
  return {
    AWS_ENDPOINT_URL: endpoint,
    AWS_REGION: LOGIN.region,
    AWS_ACCESS_KEY_ID: LOGIN.accessKeyId,
    AWS_SECRET_ACCESS_KEY: LOGIN.secretAccessKey,
  };
}

async function checkStore(store: ArtefactStore): Promise<void> {
  expect(await store.has(KEY)).toBe(false);
  expect(await store.get(KEY)).toBeUndefined();
  await store.remove(KEY);
  for (const length of [100_000, 0, 5]) {
    const bytes = Uint8Array.from({ length }, (_, at) => at * 7);
    await store.put(KEY, bytes);
    expect(await store.has(KEY)).toBe(true);
    expect(Buffer.from((await store.get(KEY))!).equals(bytes)).toBe(true);
  }
  await store.remove(KEY);
  expect(await store.has(KEY)).toBe(false);
  for (const key of ["../x", `${"0".repeat(64)}./../x`, "", KEY.toUpperCase()]) {
    await expect((async () => store.put(key, new Uint8Array()))()).rejects.toThrow(TypeError);
  }
}

test("a folder keeps artefacts, whole or not at all", async () => {
  const folder = join(await temporaryFolder(), "new", "folder");
  await checkStore(await openArtefacts(folder));
  expect(await readdir(folder)).toEqual([]);
  const file = join(folder, "file");
  await writeFile(file, "");
  await expect(openArtefacts(file)).rejects.toMatchObject({ code: "ERR_WRITE_FAILED" });
});

describe("a store like S3", () => {
  test("keeps artefacts behind a prefix, in requests that it finds signed", async () => {
    const server = await startS3(LOGIN);
    onTestFinished(server.stop);
    await checkStore(await openArtefacts("s3://a-bucket/some/prefix/", environment(server.endpoint)));
    const store = await openArtefacts("s3://a-bucket", environment(`${server.endpoint}/`));
    await store.put(KEY, Uint8Array.of(1));
    expect([...server.objects.keys()]).toEqual([`/a-bucket/${KEY}`]);
    // A failure that passes is not noticed.
    server.failures.push(503);
    expect(await store.get(KEY)).toEqual(Uint8Array.of(1));
  });

  test("is left with an error that has no secret, when it refuses or does not answer", async () => {
    const server = await startS3({ ...LOGIN, secretAccessKey: "another" });
    const store = await openArtefacts("s3://a-bucket", environment(server.endpoint));
    const refused = await store.put(KEY, Uint8Array.of(1)).catch((error: unknown) => error as Error);
    expect(refused).toMatchObject({ code: "ERR_WRITE_FAILED", message: expect.stringContaining("403") as string });
    await expect(store.get(KEY)).rejects.toMatchObject({ code: "ERR_FILE_UNREADABLE" });
    await server.stop();
    const silent = await store.get(KEY).catch((error: unknown) => error as Error);
    expect(silent).toMatchObject({ code: "ERR_FILE_UNREADABLE" });
    expect(JSON.stringify([refused, silent])).not.toContain(LOGIN.secretAccessKey);
  });

  test.each([
    ["s3://", {}],
    ["s3://a-bucket/../x?y", {}],
    ["s3://a-bucket", { AWS_ACCESS_KEY_ID: "" }],
    ["s3://a-bucket", { AWS_ENDPOINT_URL: "nowhere" }],
  ])("is refused when it is %j with %j", async (place, changes) => {
    const env = { ...environment("http://127.0.0.1:1"), ...changes };
    await expect(openArtefacts(place, env)).rejects.toThrow(TypeError);
  });
});
