// The ways in which programs load hosts and adapter, each in its own process. In mode `built` it has the built packages.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { build } from "vite";
import { describe, expect, onTestFinished, test } from "vitest";
import { POCKET } from "../support/pocket.ts";
import { NODE_FLAGS } from "../support/run-cli.ts";

const ROOT = join(import.meta.dirname, "..", "..");
const MODEL = JSON.stringify(POCKET);

/** The last line that it prints. */
async function run(program: string, kind: "module" | "commonjs"): Promise<string> {
  const flags = [...NODE_FLAGS, `--input-type=${kind}`, "--disable-warning=ExperimentalWarning", "--eval", program];
  const { stdout } = await promisify(execFile)(process.execPath, flags, { cwd: ROOT });
  return stdout.trim();
}

/** A statement that prints a pipeline's output for a text. */
function print(pipeline: string): string {
  return `{
    const generate = await ${pipeline}("text-generation", ${MODEL}, { dtype: "fp32", quantized: false });
    const [one] = await generate("The ship was", { max_new_tokens: 6 });
    console.log(one.generated_text);
    await generate.dispose();
  }`;
}

const TEXT = "The ship was the first-longed";
const BOTH = `
  const [hf, xenova] = [await import("@huggingface/transformers"), await import("@xenova/transformers")];
  xenova.env.localModelPath = "";`;

const MODULES: Readonly<Record<string, string>> = {
  "the newer host's entry point": `
    import { pipeline, TextStreamer, env } from "@readme-moe/adapter/huggingface";
    if (typeof TextStreamer !== "function" || !env.version) throw new Error("not the whole host");
    ${print("pipeline")}`,
  "the older host's entry point": `
    import { pipeline, env, AutoTokenizer } from "@readme-moe/adapter/xenova";
    if (typeof AutoTokenizer !== "function" || !env.version) throw new Error("not the whole host");
    ${print("pipeline")}`,
  "the adapter before the host": `
    const { register } = await import("@readme-moe/adapter");
    const hf = await import("@huggingface/transformers");
    register(hf);
    ${print("hf.pipeline")}`,
  "the host, in use, before the adapter": `
    const hf = await import("@huggingface/transformers");
    await hf.pipeline("text-generation", ${MODEL}).catch(() => undefined);
    const { register } = await import("@readme-moe/adapter");
    register(hf);
    ${print("hf.pipeline")}`,
  "a thread": `
    import { Worker } from "node:worker_threads";
    const program = ${JSON.stringify(`
      const hf = await import("@huggingface/transformers");
      const { register } = await import("@readme-moe/adapter");
      register(hf);
      ${print("hf.pipeline")}`)};
    const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(
      "import { createRequire } from 'node:module';" +
      "const require = createRequire(" + JSON.stringify(${JSON.stringify(join(ROOT, "package.json"))}) + ");" +
      program.replace(/await import\\(("[^"]+")\\)/g, "require($1)"))));
    await new Promise((resolve, reject) => worker.on("exit", resolve).on("error", reject));`,
  "the engine in a thread of the host's process": `
    const hf = await import("@huggingface/transformers");
    const { createPipeline } = await import("@readme-moe/adapter");
    const pipeline = createPipeline(hf);
    ${print("((task, id, options) => pipeline(task, id, { ...options, engineOptions: { isolation: 'thread' } }))")}`,
};

describe.each(Object.entries(MODULES))("%s", (_title, program) => {
  test("generates", async () => {
    expect((await run(program, "module")).split("\n").at(-1)).toBe(TEXT);
  });
});

test.each(["hf, xenova", "xenova, hf"])("both hosts in one process, %s", async (order) => {
  const registered = order.split(", ").map((name) => `register(${name}); ${print(`${name}.pipeline`)}`);
  const program = `${BOTH} const { register } = await import("@readme-moe/adapter"); ${registered.join("\n")}`;
  expect(await run(program, "module")).toBe(`${TEXT}\n${TEXT}`);
});

test.each(["@huggingface/transformers", "@xenova/transformers"])("CommonJS, %s", async (host) => {
  const isOlder = host.includes("xenova");
  const program = `(async () => {
    const host = ${isOlder ? `await import("${host}")` : `require("${host}")`};
    ${isOlder ? 'host.env.localModelPath = "";' : ""}
    const { register } = require("@readme-moe/adapter");
    register(host);
    ${print("host.pipeline")}
  })()`;
  expect(await run(program, "commonjs")).toBe(TEXT);
});

test("importing the adapter loads neither host nor runtime", async () => {
  const program = `
    await import("@readme-moe/adapter");
    const { createRequire } = await import("node:module");
    const loaded = Object.keys(createRequire(import.meta.url).cache).filter((path) => /onnxruntime|transformers/.test(path));
    console.log(loaded.length, process.report.getReport().sharedObjects.filter((path) => path.includes("onnxruntime")).length);`;
  expect(await run(program, "module")).toBe("0 0");
});

test("a server-side bundle of Vite leaves the adapter external, and runs", async () => {
  const cache = join(ROOT, "node_modules", ".cache");
  await mkdir(cache, { recursive: true });
  const root = await mkdtemp(join(cache, "bundle-"));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const program = `import { pipeline } from "@readme-moe/adapter/huggingface";\n${print("pipeline")}`;
  await writeFile(join(root, "entry.js"), program);
  const conditions = NODE_FLAGS.some((flag) => flag.includes("source")) ? ["@readme-moe/source", "node"] : ["node"];
  await build({
    root,
    logLevel: "silent",
    build: { ssr: "entry.js", outDir: "out" },
    ssr: { external: true, resolve: { conditions } },
  });
  const { stdout } = await promisify(execFile)(process.execPath, [...NODE_FLAGS, join(root, "out", "entry.js")]);
  expect(stdout.trim()).toBe(TEXT);
});
