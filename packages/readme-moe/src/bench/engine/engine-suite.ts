// Our engine, alone or beside others, on the same weights, token ids and number of threads.

import { openModel } from "@readme-moe/model";
import { readDocuments } from "../../evaluation/documents.ts";
import { dataFiles } from "../kit/data-files.ts";
import { interleave } from "../kit/interleave.ts";
import { type BenchSettings, namesOf, numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { measureTurns } from "./by-turns.ts";
import { type ContenderSpec, nameOf } from "./contender.ts";
import { engineReport } from "./engine-report.ts";
import { packaged, runJob } from "./run-job.ts";
import { drawnSource, drawPrompts, promptSource, textsOf, type Workload, type WorkloadSizes } from "./workload.ts";

/** What our engine is measured beside, and on. */
export interface EngineSuiteOptions {
  /** Those beside ours, made ready. @default none */
  readonly peers?: (context: SuiteContext) => Promise<readonly ContenderSpec[]>;
  /** Files that are read where `--data` names none. @default prompts of any tokens, and no loss */
  readonly data?: () => Promise<readonly string[]>;
}

const OURS = "readme-moe";
const LOSS = { sequenceLength: 512, maxSequences: 2 };

/** The suite `engine`: our engine in each precision, alone or beside others. */
export function engineSuite({ peers, data }: EngineSuiteOptions = {}): Suite {
  return {
    name: "engine",
    summary: "speed by requests at once, context and precision; memory, load time, event loop and loss",
    async run(context) {
      const { settings, say } = context;
      const files = settings.data.length > 0 ? settings.data : ((await data?.()) ?? []);
      const { sizes, tokens, texts } = await prepare(settings, files);
      const specs = [...oursOf(settings), ...((await peers?.(context)) ?? [])].filter((spec) =>
        namesOf(settings, "only", [""]).some((part) => nameOf(spec).includes(part)),
      );
      const job = (spec: ContenderSpec, seed: number, own: WorkloadSizes, losses: Workload["texts"]) => {
        const most = spec.maxConcurrency ?? Infinity;
        const workload = drawPrompts(tokens, { ...own, concurrency: own.concurrency.filter((n) => n <= most) }, seed);
        const { threads, cacheFolder } = settings;
        const maxSequences = Math.max(1, ...sizes.concurrency);
        return runJob({
          open: { spec, threads, maxSequences, seed, cacheFolder },
          workload: { ...workload, texts: losses },
        });
      };
      // Packs weights, and brings files into the system's cache: nobody's first start is measured, unless it only has to run.
      const small = { ...sizes, concurrency: [1], newTokens: 1, contexts: [] };
      for (const spec of settings.quick ? [] : specs) {
        say(`${nameOf(spec)}: warming up`);
        await job(spec, settings.seed, small, []).catch((error: unknown) => say(String(error)));
      }
      const variants = specs.map((spec) => ({
        name: nameOf(spec),
        measure: (seed: number) => job(spec, seed, sizes, seed === settings.seed ? texts : []),
      }));
      const turns = await measureTurns(context, { specs, tokens, sizes });
      return engineReport(settings, sizes, await interleave(context, "engine", variants), turns);
    },
  };
}

/** The model in each precision, and the dense one that it was made from. */
function oursOf(settings: BenchSettings): readonly ContenderSpec[] {
  const { model, dense } = settings;
  const module = packaged("ours").href;
  const precisions = namesOf(settings, "precisions", ["fp32", "int8", "int4"]);
  const of = (engine: string, path: string): readonly ContenderSpec[] =>
    precisions.map((variant) => ({ engine, variant, module, files: { model: path } }));
  if (dense === undefined || dense === model) return of(OURS, model);
  return [...of(`${OURS} dense`, dense), ...of(`${OURS} experts`, model)];
}

interface Prepared {
  readonly sizes: WorkloadSizes;
  /** That prompts are drawn from. */
  readonly tokens: readonly number[];
  readonly texts: Workload["texts"];
}

async function prepare(settings: BenchSettings, files: readonly string[]): Promise<Prepared> {
  const model = await openModel(settings.dense ?? settings.model);
  try {
    const { tokenizer } = await model.loadText();
    const { contextTokens: most, vocabSize } = model.config;
    const named = await dataFiles(files);
    const documents = await Promise.all(
      named.map(async ({ path }) => (await readDocuments(path)).map(({ text }) => text)),
    );
    const tokens =
      documents.length > 0 ? promptSource(tokenizer, documents.flat()) : drawnSource(vocabSize, settings.seed);
    const sizes = sizesOf(settings, most);
    // As many files as are read in a few seconds by the slowest.
    const texts = textsOf(model, tokenizer, documents.slice(0, settings.quick ? 1 : 7), LOSS);
    return { sizes, tokens, texts };
  } finally {
    await model.close();
  }
}

function sizesOf(settings: BenchSettings, mostTokens: number): WorkloadSizes {
  const { quick } = settings;
  const contextTokens = 16;
  const contexts = numbersOf(settings, "contexts", quick ? [64, 256] : [64, 512, 2048, 4096]);
  const fitting = contexts.map((length) => Math.min(length, mostTokens - contextTokens));
  return {
    concurrency: numbersOf(settings, "concurrency", quick ? [1, 8] : [1, 8, 32, 64]),
    promptTokens: 64,
    newTokens: quick ? 8 : 32,
    contexts: [...new Set(fitting)],
    contextTokens,
  };
}
