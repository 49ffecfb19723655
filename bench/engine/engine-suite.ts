// Our engine beside its peers, on the same weights, token ids and number of threads.

import { openModel } from "@readme-moe/model";
import { type BenchSettings, namesOf, numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { interleave } from "../kit/turns.ts";
import { compiled, measureInProcess } from "./contender-process.ts";
import { measureTurns } from "./by-turns.ts";
import { type ContenderSpec, nameOf } from "./contender.ts";
import { engineReport } from "./engine-report.ts";
import { documentsOf } from "./own-texts.ts";
import { drawnSource, drawPrompts, promptSource, textsOf, type Workload, type WorkloadSizes } from "./workload.ts";

/** The engines to compare ours with, and the texts to measure on. */
interface EngineSuiteOptions {
  /** Installs and prepares the peers. */
  readonly peers: (context: SuiteContext) => Promise<readonly ContenderSpec[]>;
  /** Files that are read when `--data` names none; without any, prompts are random tokens and no loss is measured. */
  readonly data: () => Promise<readonly string[]>;
}

const OURS = "readme-moe";
const LOSS = { sequenceLength: 512, maxSequences: 2 };

/** Makes the suite `engine`: our engine in each precision beside its peers. */
export function engineSuite({ peers, data }: EngineSuiteOptions): Suite {
  return {
    name: "engine",
    summary: "speed by requests at once, context and precision; memory, load time, event loop and loss",
    async run(context) {
      const { settings, say } = context;
      const files = settings.data.length > 0 ? settings.data : await data();
      const { sizes, tokens, texts } = await prepare(settings, files);
      const specs = [...oursOf(settings), ...(await peers(context))].filter((spec) =>
        namesOf(settings, "only", [""]).some((part) => nameOf(spec).includes(part)),
      );
      const job = (spec: ContenderSpec, seed: number, own: WorkloadSizes, losses: Workload["texts"]) => {
        const most = spec.maxConcurrency ?? Infinity;
        const workload = drawPrompts(tokens, { ...own, concurrency: own.concurrency.filter((n) => n <= most) }, seed);
        const { threads, cacheFolder } = settings;
        const maxSequences = Math.max(1, ...sizes.concurrency);
        const open = { spec, threads, maxSequences, seed, cacheFolder };
        return measureInProcess(open, { ...workload, texts: losses });
      };
      // Packs weights and fills the system's file cache, so that no first start is measured.
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

/** Lists the model in each precision, and the dense model that it was made from. */
function oursOf(settings: BenchSettings): readonly ContenderSpec[] {
  const { model, dense } = settings;
  const module = compiled("contenders/ours").href;
  const precisions = namesOf(settings, "precisions", ["fp32", "int8", "int4"]);
  const of = (engine: string, path: string): readonly ContenderSpec[] =>
    precisions.map((variant) => ({ engine, variant, module, files: { model: path } }));
  if (dense === undefined || dense === model) return of(OURS, model);
  return [...of(`${OURS} dense`, dense), ...of(`${OURS} experts`, model)];
}

interface Prepared {
  readonly sizes: WorkloadSizes;
  /** Token ids that prompts are drawn from. */
  readonly tokens: readonly number[];
  readonly texts: Workload["texts"];
}

async function prepare(settings: BenchSettings, files: readonly string[]): Promise<Prepared> {
  const model = await openModel(settings.dense ?? settings.model);
  try {
    const { tokenizer } = await model.loadText();
    const { contextTokens: most, vocabSize } = model.config;
    const documents = await documentsOf(files);
    const tokens =
      documents.length > 0 ? promptSource(tokenizer, documents.flat()) : drawnSource(vocabSize, settings.seed);
    const sizes = sizesOf(settings, most);
    // The slowest contender reads so many files in a few seconds.
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
  const [newTokens = 64] = numbersOf(settings, "new-tokens", [quick ? 8 : 64]);
  return {
    concurrency: numbersOf(settings, "concurrency", quick ? [1, 8] : [1, 8, 32, 64]),
    promptTokens: 64,
    newTokens,
    contexts: [...new Set(fitting)],
    contextTokens,
  };
}
