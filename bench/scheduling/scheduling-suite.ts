// Runs a mixed load of all domains with each scheduler, with all experts in memory and within budgets, and with the
// dense model. Schedulers take turns on one engine, with the same requests.

import { ReadMeEngine, type OpenOptions, type SchedulingOptions } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { distinct, type Sample } from "../kit/samples.ts";
import { interleave } from "../kit/turns.ts";
import { numbersOf, type Suite, type SuiteContext } from "../kit/suite.ts";
import { summaryTable } from "../kit/report.ts";
import { lazily } from "../lazily.ts";
import { allExpertBytes } from "./expert-bytes.ts";
import { measure, type Measured } from "./measure.ts";
import { SCHEDULERS } from "./schedulers.ts";
import {
  ALL_IN_MEMORY,
  budgetName,
  conditionOf,
  METRICS,
  schedulingNotes,
  schedulingTargets,
} from "./scheduling-targets.ts";
import { type Request, requestsOf } from "./workload.ts";

const POCKET_TEXTS = "models/pocket/calibration";

/** Engine, and the schedulers that take turns on it. */
interface Series {
  readonly name: string;
  readonly path: string;
  readonly options: OpenOptions;
  readonly schedulers: Readonly<Record<string, SchedulingOptions>>;
}

interface Load {
  readonly requests: readonly Request[];
  /** Maximum of sequences in a step. */
  readonly batch: number;
  /** Concurrent requests, as a multiple of the batch. */
  readonly times: readonly number[];
}

export const schedulingSuite: Suite = {
  name: "scheduling",
  summary: "schedulers on a mixed load, with experts in memory and within budgets, beside the dense model",
  async run(context) {
    const { settings } = context;
    const { model, quick, seed } = settings;
    const [batch = 12] = numbersOf(settings, "batch", [quick ? 4 : 12]);
    const [count = 40] = numbersOf(settings, "count", [quick ? 8 : 40]);
    const times = numbersOf(settings, "loads", quick ? [2] : [1, 2, 4]);
    const load = { requests: await drawn(context, count), batch, times };
    const all = await seriesOf(context, { maxNumSeqs: batch * Math.max(...times), maxNumBatchedSeqs: batch });
    const samples: Sample[] = [];
    const failures: string[] = [];
    for (const series of all) {
      const measured = await measureSeries(context, series, load);
      samples.push(...measured.samples);
      failures.push(...measured.failures);
    }
    return {
      tables: distinct(samples.map(({ at }) => at)).map((at) =>
        summaryTable(
          samples.filter((one) => one.at === at),
          { title: `${at} the sequences that a step takes`, seed, columns: columnsAt(at) },
        ),
      ),
      targets: quick ? [] : schedulingTargets(samples),
      samples,
      notes: [
        `${model}: ${count} requests of all kinds of text, greedy, ${batch} sequences in a step; each finished request is followed by the next.`,
        "Normalised latency: time from a request's arrival to its last token, divided by the answer's tokens.",
        ...schedulingNotes(samples),
        ...failures,
      ],
    };
  },
};

async function drawn({ settings, keep }: SuiteContext, count: number): Promise<readonly Request[]> {
  const paths = settings.data.length > 0 ? settings.data : [POCKET_TEXTS];
  return keep("requests", async () => {
    const model = await openModel(settings.model);
    const { tokenizer } = await model.loadText();
    await model.close();
    return requestsOf({ tokenize: (text) => Promise.resolve(tokenizer.encode(text)) }, paths, count, settings.seed);
  });
}

async function seriesOf({ settings }: SuiteContext, limits: OpenOptions): Promise<readonly Series[]> {
  const { model: path, dense, threads, cacheFolder, quick } = settings;
  const shared = { ...limits, precision: "int8", threads, cacheFolder, prefixCacheBytes: 0 } as const;
  const allBytes = await allExpertBytes(path);
  if (allBytes === 0) throw new RangeError(`Expected <model> to be a mixture of experts, got ${path}`);
  const budgets = numbersOf(settings, "budgets", quick ? [50] : [75, 50, 25]);
  const own = { path, schedulers: SCHEDULERS };
  const denseSeries = (["int8", "int4"] as const).map((precision) => ({
    name: `dense ${precision}`,
    path: dense ?? path,
    options: { ...shared, precision },
    schedulers: { "cost-aware": {} },
  }));
  return [
    { ...own, name: ALL_IN_MEMORY, options: shared },
    ...budgets.map((percent) => ({
      ...own,
      name: budgetName(percent),
      options: { ...shared, expertCacheBytes: Math.ceil((percent / 100) * allBytes) },
    })),
    ...(dense === undefined ? [] : denseSeries),
  ];
}

async function measureSeries(context: SuiteContext, { name, path, options, schedulers }: Series, load: Load) {
  const { requests, batch, times } = load;
  const samples: Sample[] = [];
  const failures: string[] = [];
  await using engine = lazily(async () => {
    const opened = await ReadMeEngine.open(path, options);
    // The warm-up allocates memory and learns coefficients; it is not counted.
    await measure(opened, requests.slice(0, batch), batch);
    return opened;
  });
  for (const time of times) {
    const at = conditionOf(name, time);
    const variants = Object.entries(schedulers).map(([scheduler, scheduling]) => ({
      name: scheduler,
      measure: async () => {
        const opened = await engine.value();
        await opened.setScheduling(scheduling);
        return figuresOf(await measure(opened, requests, time * batch), at);
      },
    }));
    const measured = await interleave(context, at, variants);
    samples.push(...measured.samples);
    failures.push(...Array.from(measured.failures, ([one, why]) => `${at}, ${one}: not measured: ${why}`));
  }
  return { samples, failures };
}

function figuresOf(measured: Measured, at: string) {
  return (Object.keys(METRICS) as (keyof Measured)[]).flatMap((key) => {
    const value = measured[key];
    return value === undefined ? [] : [{ metric: METRICS[key], at, value }];
  });
}

function columnsAt(at: number | string) {
  return Object.values(METRICS).map((metric) => ({ title: metric, metric, at }));
}
