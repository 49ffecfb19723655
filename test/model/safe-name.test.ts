import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { resolveInside } from "../../packages/model/src/files/file-name.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const NAMED_BY = "index.json";

describe("resolveInside", () => {
  test("resolves files in the folder and in its subfolders", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "sub"));
    await writeFile(join(folder, "a"), "");
    await writeFile(join(folder, "sub", "..b"), "");
    expect(await resolveInside(folder, "a", NAMED_BY)).toBe(join(folder, "a"));
    expect(await resolveInside(folder, "sub/..b", NAMED_BY)).toBe(join(folder, "sub", "..b"));
  });

  test.each([
    "",
    ".",
    "..",
    "../a",
    "sub/../a",
    "sub/../../a",
    "/etc/passwd",
    "//host/share",
    "a\0b",
    "a\\b",
    "..\\a",
    "C:/a",
    "c:a",
    "a/",
    "./a",
  ])("refuses the name %j, whether or not there is such a file", async (name) => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "a"), "");
    await mkdir(join(folder, "sub"));
    await expectReadMeError(resolveInside(folder, name, NAMED_BY), "ERR_FILE_CORRUPT", NAMED_BY, JSON.stringify(name));
  });

  test("refuses a name that is too long for a path, and quotes its beginning alone", async () => {
    const refused = resolveInside(await temporaryFolder(), "a/".repeat(5000), NAMED_BY);
    const { message } = await expectReadMeError(refused, "ERR_FILE_CORRUPT", NAMED_BY, "more than 1024 characters");
    expect(message.length).toBeLessThan(500);
  });

  test("follows links that stay in the folder, and refuses those that leave it", async () => {
    const outer = await temporaryFolder();
    const folder = join(outer, "model");
    await mkdir(folder);
    await writeFile(join(outer, "secret"), "");
    // A folder whose name only begins like the model's is outside, too.
    await mkdir(join(outer, "model-2"));
    await writeFile(join(outer, "model-2", "secret"), "");
    await writeFile(join(folder, "real"), "");
    await symlink("real", join(folder, "link"));
    await symlink("../secret", join(folder, "leaving"));
    await symlink("../model-2", join(folder, "sub"));
    expect(await resolveInside(folder, "link", NAMED_BY)).toBe(join(folder, "link"));
    await expectReadMeError(resolveInside(folder, "leaving", NAMED_BY), "ERR_FILE_CORRUPT", NAMED_BY, "leaving");
    await expectReadMeError(resolveInside(folder, "sub/secret", NAMED_BY), "ERR_FILE_CORRUPT", NAMED_BY, "sub/secret");
  });

  test("accepts a model folder that is itself a link", async () => {
    const outer = await temporaryFolder();
    await mkdir(join(outer, "real"));
    await writeFile(join(outer, "real", "a"), "");
    await symlink("real", join(outer, "model"));
    expect(await resolveInside(join(outer, "model"), "a", NAMED_BY)).toBe(join(outer, "model", "a"));
  });

  test("follows links of a Hugging Face cache to blobs of the repository or of the cache only", async () => {
    const cache = await temporaryFolder();
    const repository = join(cache, "models--some--model");
    const snapshot = join(repository, "snapshots", "0123abc");
    await mkdir(snapshot, { recursive: true });
    for (const name of [repository, join(cache, "models--other--model")]) {
      await mkdir(join(name, "blobs"), { recursive: true });
      await writeFile(join(name, "blobs", "f00d"), "");
    }
    await writeFile(join(repository, "refs"), "");
    await symlink("../../blobs/f00d", join(snapshot, "good"));
    await mkdir(join(cache, "blobs", "be"), { recursive: true });
    await writeFile(join(cache, "blobs", "be", "beef"), "");
    await symlink("../../blobs/be/beef", join(repository, "blobs", "shared"));
    await symlink("../../blobs/shared", join(snapshot, "shared"));
    await symlink("../../refs", join(snapshot, "refs"));
    await symlink("../../../models--other--model/blobs/f00d", join(snapshot, "other"));
    expect(await resolveInside(snapshot, "good", NAMED_BY)).toBe(join(snapshot, "good"));
    expect(await resolveInside(snapshot, "shared", NAMED_BY)).toBe(join(snapshot, "shared"));
    await expectReadMeError(resolveInside(snapshot, "refs", NAMED_BY), "ERR_FILE_CORRUPT", "refs");
    await expectReadMeError(resolveInside(snapshot, "other", NAMED_BY), "ERR_FILE_CORRUPT", "other");
  });

  test("refuses a link to blobs from a folder that is no snapshot", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "models", "snapshots", "1"), { recursive: true });
    await mkdir(join(folder, "models", "blobs"));
    await writeFile(join(folder, "models", "blobs", "f00d"), "");
    await symlink("../../blobs/f00d", join(folder, "models", "snapshots", "1", "a"));
    await expectReadMeError(
      resolveInside(join(folder, "models", "snapshots", "1"), "a", NAMED_BY),
      "ERR_FILE_CORRUPT",
      '"a"',
    );
  });

  test("names the naming file when the named file is missing or is a circular link", async () => {
    const folder = await temporaryFolder();
    await symlink("circle", join(folder, "circle"));
    await expectReadMeError(resolveInside(folder, "none", NAMED_BY), "ERR_FILE_NOT_FOUND", NAMED_BY, "none");
    await expectReadMeError(resolveInside(folder, "circle", NAMED_BY), "ERR_FILE_UNREADABLE", NAMED_BY, "circle");
  });
});
