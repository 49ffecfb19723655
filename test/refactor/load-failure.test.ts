// Machines on which the inference runtime does not load: what is said there.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { explainLoadFailure, runtimeHost } from "../../packages/refactor/src/graphs/session.ts";
import { outcomeOf, startCommand } from "../support/node-process.ts";
import { writePocketExperts } from "../support/pocket-experts.ts";
import { POCKET } from "../support/pocket.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const TEXTS = ["arxiv", "book"].map((domain) => join(POCKET, "calibration", `${domain}.jsonl`));
const LINUX = { platform: "linux", arch: "x64", glibc: "2.36" } as const;

test.each([
  ["linux", "ia32"],
  ["linux", "arm"],
  ["linux", "riscv64"],
  ["darwin", "x64"],
  ["win32", "ia32"],
  ["freebsd", "x64"],
])("%s %s has no build, and is told which systems have", (platform, arch) => {
  const why = explainLoadFailure("Cannot find module '../bin/x.node'", { platform, arch, glibc: undefined });
  expect(why).toContain(`no build for ${platform} ${arch}`);
  expect(why).toContain("Linux with glibc (x64, arm64)");
});

test.each([
  [{ platform: "linux", arch: "x64", glibc: undefined }, "Error loading shared library ld-linux-x86-64.so.2", "glibc"],
  [{ ...LINUX, glibc: "2.17" }, "/lib64/libm.so.6: version `GLIBC_2.27' not found", "glibc 2.28 or newer"],
  [LINUX, "libonnxruntime.so.1: version `VERS_1.30.0' not found", "another version of onnxruntime-node"],
  [LINUX, "Cannot find module '../bin/napi-v6/linux/x64/onnxruntime_binding.node'", "bundlers"],
  [{ platform: "win32", arch: "x64", glibc: undefined }, "The specified module could not be found.", "Visual C++"],
  [{ platform: "darwin", arch: "arm64", glibc: undefined }, "was built for newer macOS version (14.0)", "macOS 14"],
])("on %o, `%s` is explained", (host, message, expected) => {
  expect(explainLoadFailure(message, host)).toContain(expected);
});

test("an unknown failure is reported unchanged", () => {
  expect(explainLoadFailure("disk on fire", LINUX)).toBe("disk on fire");
});

test("this process's platform is described", () => {
  expect(runtimeHost()).toMatchObject({ platform: process.platform, arch: process.arch });
});

/** Loaded before everything else in the program and in the engine's process. */
function preloaded(code: string): string {
  return `--import=data:text/javascript,${encodeURIComponent(code)}`;
}

const NO_BUILD = preloaded(`
  import Module from "node:module";
  const { _resolveFilename } = Module;
  Module._resolveFilename = (request, ...rest) => {
    if (!request.includes("onnxruntime_binding.node")) return _resolveFilename(request, ...rest);
    Object.defineProperty(process, "arch", { value: "ia32" });
    return _resolveFilename(request.replace(/(x64|arm64)/, "ia32"), ...rest);
  };`);

const MUSL = preloaded(`
  const { dlopen } = process;
  process.report.getReport = () => ({ header: {} });
  process.dlopen = (module, path, ...flags) => {
    if (!path.includes("onnxruntime")) return dlopen(module, path, ...flags);
    throw new Error("Error loading shared library ld-linux-x86-64.so.2: No such file or directory (needed by " + path + ")");
  };`);

const NO_ADDON = preloaded(`
  const { dlopen } = process;
  process.dlopen = (module, path, ...flags) => {
    if (!path.includes("kernel.node")) return dlopen(module, path, ...flags);
    throw new Error("libc.musl-x86_64.so.1: cannot open shared object file: No such file or directory");
  };`);

describe.runIf(process.platform === "linux")("a program on a machine without the native part", () => {
  test.each([
    ["that has no build", NO_BUILD, "onnxruntime-node has no build for linux ia32"],
    ["with musl", MUSL, "take an image with glibc, such as node:20-slim"],
  ])("%s ends with what to do, not with a stack", async (_, preload, expected) => {
    const out = join(await temporaryFolder(), "experts");
    const args = ["refactor", POCKET, "--out", out, "--data", ...TEXTS, "--calibration-tokens", "512"];
    const { code, stdout, stderr } = await outcomeOf(startCommand(args, { env: { NODE_OPTIONS: preload } }));
    expect(stderr).toContain(expected);
    expect(stderr).toContain("ERR_RUNTIME");
    expect(stderr).not.toContain("    at ");
    expect(stdout).toBe("");
    expect(code).toBe(1);
  });

  test.each(["a dense model", "a mixture"])("runs %s, which does without the runtime", async (kind) => {
    const mixture = join(await temporaryFolder(), "experts");
    if (kind === "a mixture") await writePocketExperts(mixture);
    const path = kind === "a mixture" ? mixture : POCKET;
    const args = ["generate", path, "--prompt", "The ship was", "--max-new-tokens", "2", "--temperature", "0"];
    const expected = await outcomeOf(startCommand(args));
    expect(expected.code).toBe(0);
    expect(await outcomeOf(startCommand(args, { env: { NODE_OPTIONS: NO_BUILD } }))).toEqual(expected);
  });

  test("runs dense models in WebAssembly when no addon loads, and reports it", async () => {
    const args = ["generate", POCKET, "--prompt", "The ship was", "--max-new-tokens", "2", "--precision", "int8"];
    const { code, stdout } = await outcomeOf(startCommand(args));
    const fallen = await outcomeOf(startCommand(args, { env: { NODE_OPTIONS: NO_ADDON } }));
    expect(fallen).toMatchObject({
      code,
      stdout,
      stderr: expect.stringMatching(/^note: WebAssembly runs the model: .*musl/),
    });
  });

  test("still reads models", async () => {
    const { code, stdout } = await outcomeOf(
      startCommand(["inspect", POCKET, "--json"], { env: { NODE_OPTIONS: NO_BUILD } }),
    );
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ kind: "dense" });
  });
});
