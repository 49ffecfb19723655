// See USAGE in options.ts. Each contender and repetition runs in a fresh process; contenders take turns (A B C A B C …),
// so that whatever slows the machine down for a while slows all of them.

import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { type Model, openModel, resolveCacheFolder } from "@readme-moe/model";
import { type ContenderSpec, nameOf, type Paths } from "./contender.ts";
import { installPeers } from "./install-peers.ts";
import type { Measurements } from "./measure.ts";
import { type BenchOptions, readOptions, USAGE } from "./options.ts";
import { preparePeerFiles } from "./prepare.ts";
import { columnsOf, compare, medianOf, type Result } from "./results.ts";
import { runJob } from "./run-job.ts";
import { formatTable } from "./table.ts";
import { readTexts } from "./texts.ts";
import { drawPrompts, promptSource, textsOf, type Workload } from "./workload.ts";

const ROOT = process.cwd(); // npm runs scripts in the folder of package.json

async function main(): Promise<void> {
  const options = readOptions(process.argv.slice(2));
  if (!options) return void process.stderr.write(USAGE);
  const { paths, tokens, texts } = await prepare(options);
  const results = await runAll(contendersOf(options, paths), options, paths, tokens, texts);
  const columns = columnsOf(options.concurrency);
  console.log(formatTable(results, columns));
  if (options.json === undefined) return;
  const summary = results.map((result) => ({
    name: nameOf(result.spec),
    ...result,
    medians: Object.fromEntries(columns.map((column) => [column.title, medianOf(result, column)])),
  }));
  const comparisons = compare(results, columns).map(({ name, values }) => ({
    name,
    toBestPeer: Object.fromEntries(columns.map(({ title }, index) => [title, values[index]])),
  }));
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version };
  await writeFile(
    options.json,
    `${JSON.stringify({ machine, options, results: summary, comparisons }, undefined, 2)}\n`,
  );
}

interface Prepared {
  readonly paths: Paths;
  /** Token ids that prompts are drawn from. */
  readonly tokens: readonly number[];
  readonly texts: Workload["texts"];
}

async function prepare(options: BenchOptions): Promise<Prepared> {
  const cacheFolder = resolveCacheFolder(options.cacheFolder);
  const model = await openModel(options.model);
  const peerModel = options.peerModel === options.model ? model : await openModel(options.peerModel);
  const peers = join(ROOT, "bench", "peers");
  const isDense = peerModel.kind === "dense";
  if (!isDense) say("peers run no mixtures; name a dense model with --peer-model to have them run one");
  if (isDense) await installPeers(peers, say);
  const files = isDense ? await preparePeerFiles(peerModel, cacheFolder, say) : { onnx: undefined, gguf: {} };
  const { tokenizer } = await model.loadText();
  const documents = await readTexts(options.data, ROOT);
  const tokens = promptSource(tokenizer, documents.flat());
  const { sequenceLength, maxSequences } = options;
  const texts = maxSequences === 0 ? [] : textsOf(model, tokenizer, documents, { sequenceLength, maxSequences });
  checkLengths(options, model);
  await model.close();
  if (peerModel !== model) await peerModel.close();
  return { paths: { model: resolve(options.model), ...files, peers, cacheFolder }, tokens, texts };
}

function checkLengths({ promptTokens, newTokens, prefillTokens }: BenchOptions, { config }: Model): void {
  const longest = Math.max(promptTokens + newTokens, prefillTokens + 1);
  if (longest <= config.contextTokens) return;
  throw new RangeError(`Expected at most ${config.contextTokens} tokens, the model's context, got ${longest}`);
}

function contendersOf({ precisions, dtypes, only }: BenchOptions, { onnx, gguf }: Paths): readonly ContenderSpec[] {
  const all: readonly ContenderSpec[] = [
    ...precisions.map((variant) => ({ engine: "readme-moe", variant }) as const),
    ...(onnx === undefined ? [] : dtypes.map((variant) => ({ engine: "transformers.js", variant }) as const)),
    ...Object.keys(gguf).map((variant) => ({ engine: "node-llama-cpp", variant }) as const),
  ];
  return all.filter((spec) => only.length === 0 || only.some((part) => nameOf(spec).includes(part)));
}

async function runAll(
  specs: readonly ContenderSpec[],
  options: BenchOptions,
  paths: Paths,
  tokens: readonly number[],
  texts: Workload["texts"],
): Promise<readonly Result[]> {
  const measured = new Map(specs.map((spec) => [spec, [] as Measurements[]]));
  const failures = new Map<ContenderSpec, string>();
  const run = async (spec: ContenderSpec, workload: Workload, seed: number): Promise<Measurements | undefined> => {
    const { threads, concurrency } = options;
    const open = { spec, paths, threads, maxSequences: Math.max(...concurrency), seed };
    const answer = await runJob({ open, workload });
    if ("measurements" in answer) return answer.measurements;
    failures.set(spec, answer.failure);
    say(`${nameOf(spec)}: ${answer.failure}`);
    return undefined;
  };
  // Builds graphs, and brings files into the system's cache: nobody's first start is measured.
  const small = drawPrompts(tokens, { ...options, concurrency: [1], newTokens: 1 }, options.seed);
  for (const spec of specs) {
    say(`${nameOf(spec)}: warming up`);
    await run(spec, { ...small, texts: [] }, options.seed);
  }
  for (let repetition = 0; repetition < options.repetitions; repetition++) {
    const seed = options.seed + repetition;
    const workload = { ...drawPrompts(tokens, options, seed), texts: repetition === 0 ? texts : [] };
    for (const spec of specs.filter((each) => !failures.has(each))) {
      say(`${nameOf(spec)}: repetition ${repetition + 1} of ${options.repetitions}`);
      const result = await run(spec, workload, seed);
      if (result) measured.get(spec)?.push(result);
    }
  }
  return specs.map((spec) => ({ spec, repetitions: measured.get(spec) ?? [], failure: failures.get(spec) }));
}

function say(what: string): void {
  process.stderr.write(`${what}\n`);
}

await main().catch((error: unknown) => {
  const isOurs = error instanceof TypeError || error instanceof RangeError || error instanceof ReadMeError;
  console.error(isOurs ? `error: ${error.message}` : error);
  process.exitCode = 1;
});
