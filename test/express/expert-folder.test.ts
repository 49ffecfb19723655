// Folders of experts that operators name: none outside the server's folder is found, whatever the name and the links.

import * as fc from "../support/fast-check.ts";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ApiError } from "@readme-moe/express";
import { beforeAll, describe, expect, test } from "vitest";
import { ExpertFolder, isPlainName } from "../../packages/express/src/edge/experts.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";

async function writeExpert(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  await writeFile(join(path, CONFIG), "{}");
  await writeFile(join(path, WEIGHTS), "");
}

let base: string;
let root: string;
let folder: ExpertFolder;
beforeAll(async () => {
  base = await realpath(await persistentFolder());
  root = join(base, "root");
  await writeExpert(join(root, "legal"));
  await writeExpert(join(root, "acme", "support"));
  await writeExpert(join(base, "outside"));
  await writeExpert(join(base, "root-sibling"));
  await mkdir(join(root, "empty"));
  await writeFile(join(root, "file"), "");
  await symlink(join(root, "legal"), join(root, "inside-link"));
  await symlink("../outside", join(root, "outside-link"));
  await symlink(base, join(root, "up-link"));
  await symlink(".", join(root, "self-link"));
  await symlink("loop-link", join(root, "loop-link"));
  await symlink(join(base, "nothing"), join(root, "dangling-link"));
  // Weights elsewhere below the folder, as in the cache of a hub.
  await mkdir(join(root, "hub"));
  await writeFile(join(root, "hub", CONFIG), "{}");
  await symlink(join("..", "legal", WEIGHTS), join(root, "hub", WEIGHTS));
  await mkdir(join(root, "stolen"));
  await writeFile(join(root, "stolen", CONFIG), "{}");
  await symlink(join(base, "outside", WEIGHTS), join(root, "stolen", WEIGHTS));
  folder = new ExpertFolder(root);
});

const found = (name: string): Promise<string> => folder.find(name);

async function refusal(name: string): Promise<string> {
  const error: unknown = await found(name).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ApiError)) throw new Error(`Expected a refusal of ${name}, got ${String(error)}`);
  expect(error.message).not.toContain(base);
  return `${error.status} ${error.code}`;
}

describe("an expert's folder", () => {
  test.each([
    ["legal", "legal"],
    ["acme/support", "acme/support"],
    ["inside-link", "legal"],
    ["self-link/legal", "legal"],
    ["hub", "hub"],
  ])("%s is found without links", async (name, expected) => {
    expect(await found(name)).toBe(join(root, expected));
  });

  test.each([
    "outside-link",
    "up-link/outside",
    "up-link",
    "self-link",
    "stolen",
    "..",
    ".",
    "",
    "/",
    "../outside",
    "../root-sibling",
    "legal/..",
    "legal/../../outside",
    "acme//support",
    "acme/./support",
    "legal/",
    "/etc/passwd",
    "//etc",
    "C:\\adapters",
    "c:legal",
    "acme\\support",
    "..\\outside",
    "legal\0",
    "\0",
    "file:///etc",
    "hf://org/name",
  ])("%j is forbidden", async (name) => {
    expect(await refusal(name)).toBe("403 forbidden_path");
  });

  test.each([
    "nothing",
    "acme",
    "empty",
    "file",
    "file/x",
    "dangling-link",
    "loop-link",
    "x".repeat(1000),
    "~",
    "%2e%2e",
  ])("%j is not found", async (name) => {
    expect(await refusal(name)).toBe("404 adapter_not_found");
  });

  test("an absolute path is forbidden also if it is below the folder", async () => {
    expect(await refusal(join(root, "legal"))).toBe("403 forbidden_path");
  });

  test.runIf(process.platform === "linux")("a pipe in place of a file is not read", async () => {
    const path = join(await mkdtemp(join(root, "pipe-")));
    await writeFile(join(path, CONFIG), "{}");
    execFileSync("mkfifo", [join(path, WEIGHTS)]);
    expect(await refusal(path.slice(root.length + 1))).toBe("404 adapter_not_found");
  });

  test("any name gives a folder within the server's folder or a refusal", async () => {
    const segment = fc.oneof(
      fc.constantFrom(
        "legal",
        "acme",
        "support",
        "..",
        ".",
        "",
        "up-link",
        "self-link",
        "outside",
        "root",
        "outside-link",
      ),
      fc.string({ maxLength: 5 }),
    );
    const by = fc.constantFrom("/", "/", "/", "\\", "//");
    const any = fc.tuple(fc.array(segment, { maxLength: 4 }), by).map(([all, mark]) => all.join(mark));
    let numFound = 0;
    await fc.assert(
      fc.asyncProperty(any, async (name) => {
        const path = await found(name).catch((error: unknown) => error);
        if (typeof path === "string") {
          numFound++;
          expect([join(root, "legal"), join(root, "acme", "support")]).toContain(path);
          expect(isPlainName(name)).toBe(true);
        } else expect(path).toMatchObject({ name: "ApiError", param: "lora_path" });
      }),
      { numRuns: 2000 },
    );
    expect(numFound).toBeGreaterThan(10);
  });

  test("is found also through a link to the server's folder, and not after that folder is gone", async () => {
    const other = await temporaryFolder();
    await symlink(root, join(other, "link"));
    expect(await new ExpertFolder(join(other, "link")).find("legal")).toBe(join(root, "legal"));
    await mkdir(join(other, "gone"));
    const gone = new ExpertFolder(join(other, "gone"));
    await rm(join(other, "gone"), { recursive: true });
    await expect(gone.find("legal")).rejects.toMatchObject({ status: 404 });
  });
});

test("messages name the operator's words in place of paths", () => {
  const path = join(root, "legal");
  const message = `${join(path, CONFIG)}: bad; ${path}; ${join(root, "x")}; ${root}`;
  expect(folder.hidden(message, path, "my/legal")).toBe(`my/legal/${CONFIG}: bad; my/legal; x; the folder`);
});

test.each([[undefined], [""], [7], ["/nothing-here"], [join(import.meta.dirname, "expert-folder.test.ts")]])(
  "%j is no folder of experts",
  (path) => {
    expect(() => new ExpertFolder(path as never)).toThrow("experts.folder");
  },
);
