// Compares concurrent calls of transformers.js' own pipeline with those of the adapter, by turns in one process.

import { join } from "node:path";
import { OnnxTensorStore, openModel, resolveCacheFolder } from "@readme-moe/model";
import { askChild, endChild } from "../engine/contender-process.ts";
import { type Figure, valuesOf } from "../kit/samples.ts";
import { interleave, type Interleaved } from "../kit/turns.ts";
import { median } from "../kit/statistics.ts";
import { numbersOf, type Suite, type SuiteContext, type Target } from "../kit/suite.ts";
import { summaryTable } from "../kit/report.ts";
import { afterWarmUp } from "../after-warm-up.ts";
import { preparePeerFiles } from "../engine/prepare.ts";
import { promptOf } from "../express/load.ts";
import { lazily } from "../lazily.ts";
import { forkSource } from "../sources.ts";
import type { CallsAnswer, CallsRequest, PipelineSpec } from "./calls-child.ts";

const HOST = "transformers.js";
const OURS = "transformers.js with readme-moe";
/** Contender with nothing changed but the import. */
const SAME_FILES = `${OURS}, same ONNX file`;
const METRICS = {
  speed: "new tokens, tok/s",
  loopP99: "event loop p99, ms",
  same: "texts as its own, of all",
} as const;
const WANTED = { timesTheHost: 8, loopP99Ms: 10 } as const;
/** Data type with which the texts of both must be the same. */
const EXACT = "fp32";

export const adapterSuite: Suite = {
  name: "adapter",
  summary: "concurrent calls of transformers.js' own pipeline, and of the same with the import changed",
  async run(context) {
    const { settings } = context;
    const { quick, seed } = settings;
    const [numCalls = 16] = numbersOf(settings, "calls", [16]);
    const [newTokens = 48] = numbersOf(settings, "call-tokens", [quick ? 8 : 48]);
    const pipelines = await pipelinesOf(context);
    const prompts = Array.from({ length: numCalls }, (_, index) => promptOf(index));
    const measured = await measureCalls(context, pipelines, { prompts, newTokens });
    const { samples, failures } = measured;
    return {
      tables: [
        summaryTable(samples, { title: `${numCalls} calls at once, ${newTokens} new tokens each, greedy`, seed }),
      ],
      targets: quick ? [] : adapterTargets(measured, settings.set["dtype"] ?? EXACT),
      samples,
      notes: [
        "Both use their default number of threads in one process; the first measurement of each is not counted.",
        "The event loop is that of the calling program; delays include the monitor's period of 1 ms.",
        ...Array.from(failures, ([name, why]) => `${name}: not measured: ${why}`),
      ],
    };
  },
};

/** Lists the dense model in both, and the mixture, which only ours runs. */
async function pipelinesOf({ settings, say }: SuiteContext): Promise<ReadonlyMap<string, PipelineSpec>> {
  const { model: path, dense = path, cacheFolder, set } = settings;
  const dtype = (set["dtype"] ?? EXACT) as PipelineSpec["dtype"]; // the host rejects unknown values
  const pipelines = new Map<string, PipelineSpec>();
  const model = await openModel(dense);
  if (model.kind === "dense") {
    const isOnnx = model.weights.embedding.store instanceof OnnxTensorStore;
    const prepared = { say, needsExport: true };
    const { onnx } = isOnnx
      ? { onnx: dense }
      : await preparePeerFiles(model, resolveCacheFolder(cacheFolder), prepared);
    pipelines.set(HOST, { path: onnx, runs: "host", dtype });
    pipelines.set(SAME_FILES, { path: onnx, runs: "import changed", dtype });
  } else {
    say("transformers.js runs no mixtures; name the dense model with --dense to have it run that");
  }
  await model.close();
  pipelines.set(OURS, { path: dense, runs: "engine", dtype });
  if (dense !== path) pipelines.set(`${OURS}, experts`, { path, runs: "engine", dtype });
  return pipelines;
}

async function measureCalls(
  context: SuiteContext,
  pipelines: ReadonlyMap<string, PipelineSpec>,
  calls: Omit<CallsRequest, "pipeline">,
): Promise<Interleaved> {
  await using child = lazily(startChild);
  const texts = new Map<string, readonly string[]>();
  const variants = Array.from(pipelines, ([name, pipeline]) => {
    const answer = async (): Promise<CallsAnswer> => (await child.value()).ask({ ...calls, pipeline });
    const measure = async (): Promise<readonly Figure[]> => {
      const { texts: own, elapsedMs, loopP99Ms } = await answer();
      texts.set(name, own);
      const hosts = texts.get(HOST);
      const isCompared = (name === OURS || name === SAME_FILES) && hosts !== undefined;
      return [
        { metric: METRICS.speed, value: (calls.prompts.length * calls.newTokens * 1000) / elapsedMs },
        { metric: METRICS.loopP99, value: loopP99Ms },
        ...(isCompared ? [{ metric: METRICS.same, value: numSame(own, hosts) }] : []),
      ];
    };
    return { name, measure: afterWarmUp(answer, measure) };
  });
  // Awaited here, since the process ends with this function.
  return await interleave(context, "calls", variants);
}

function startChild() {
  const child = forkSource(join(import.meta.dirname, "calls-child.ts"));
  return Promise.resolve({
    ask: (request: CallsRequest) => askChild<CallsAnswer>(child, request),
    [Symbol.asyncDispose]: () => endChild(child),
  });
}

function numSame(texts: readonly string[], others: readonly string[]): number {
  return texts.filter((text, index) => text === others[index]).length;
}

export function adapterTargets({ samples }: Pick<Interleaved, "samples">, dtype: string): readonly Target[] {
  const of = (variant: string, metric: string): number => median(valuesOf(samples, { variant, metric }));
  const { speed, loopP99 } = METRICS;
  return [
    {
      what: `calls at once, ${dtype}`,
      value: of(OURS, speed) / of(HOST, speed), // NaN, "not measured", without the host
      unit: "× the host's own",
      wanted: "over",
      limit: WANTED.timesTheHost,
    },
    {
      what: "event loop meanwhile, p99",
      value: of(OURS, loopP99),
      unit: "ms",
      wanted: "under",
      limit: WANTED.loopP99Ms,
    },
  ];
}
