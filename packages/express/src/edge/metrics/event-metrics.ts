// Counters and histograms of the events of engines and of the server, under the names of this package, and on request
// also under those of vLLM, for dashboards and gateways made for it.

import { Counter, Gauge, type GaugeConfiguration, Histogram, type Registry } from "prom-client";
import type { Engine, ReadMeEmitter } from "@readme-moe/core";

type Labels = Readonly<Record<string, string>>;

interface CounterOf {
  inc(labels: Labels, value?: number): void;
}
interface HistogramOf {
  observe(labels: Labels, value: number): void;
}

/** A value that is read at a scrape. */
export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

type ReadSamples = () => readonly Sample[] | Promise<readonly Sample[]>;

export interface MetricOptions {
  /** @default that of the model */
  readonly labelNames?: readonly string[];
  /** Whether vLLM has the metric, under the same name. */
  readonly isVllm?: boolean;
}

// Buckets are those of vLLM, so that its dashboards fit. Times are in seconds.
const FIRST_TOKEN_SECONDS: readonly number[] = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const TOKEN_SECONDS: readonly number[] = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const REQUEST_SECONDS: readonly number[] = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];
const STEP_SECONDS: readonly number[] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
/** 1, 2, 5, 10, … up to the length of a usual context. */
const TOKEN_COUNTS: readonly number[] = [1, 10, 100, 1000, 10_000, 100_000].flatMap((n) => [n, 2 * n, 5 * n]);
const SMALL_COUNTS: readonly number[] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 32, 64, 128];

const PREFIX = "readme_";
const VLLM_PREFIX = "vllm:";

export const VLLM = { isVllm: true } as const satisfies MetricOptions;

/** Makes metrics of a registry. Names are given without prefix. */
export class Instruments {
  readonly #registry: Registry;
  readonly #withAliases: boolean;

  constructor(registry: Registry, withAliases: boolean) {
    this.#registry = registry;
    this.#withAliases = withAliases;
  }

  counter(name: string, help: string, options?: MetricOptions): CounterOf {
    const counters = this.#configurations(name, help, options).map((configuration) => new Counter(configuration));
    return {
      inc: (labels, value) => {
        for (const counter of counters) counter.inc(labels, value);
      },
    };
  }

  /** @param options - by default those of a metric that vLLM has, too, as most histograms are */
  histogram(name: string, help: string, buckets: readonly number[], options: MetricOptions = VLLM): HistogramOf {
    const histograms = this.#configurations(name, help, options).map(
      (configuration) => new Histogram({ ...configuration, buckets: [...buckets] }),
    );
    return {
      observe: (labels, value) => {
        for (const histogram of histograms) histogram.observe(labels, value);
      },
    };
  }

  /** @param read - called at every scrape */
  gauge(name: string, help: string, read: ReadSamples, options?: MetricOptions): void {
    this.#registerRead(Gauge, this.#configurations(name, help, options), read);
  }

  /** Adds a counter whose value is read. It may start again from 0, as Prometheus expects of counters. */
  readCounter(name: string, help: string, read: ReadSamples, options?: MetricOptions): void {
    this.#registerRead(Counter, this.#configurations(name, help, options), read);
  }

  #registerRead(
    Metric: typeof Gauge | typeof Counter,
    configurations: readonly GaugeConfiguration<string>[],
    read: ReadSamples,
  ): void {
    for (const configuration of configurations) {
      const metric = new Metric({
        ...configuration,
        registers: [],
        async collect() {
          const samples = await read();
          this.reset();
          for (const { labels, value } of samples) this.inc(labels, value);
        },
      });
      this.#registry.registerMetric(metric);
    }
  }

  #configurations(name: string, help: string, { labelNames = ["model_name"], isVllm = false }: MetricOptions = {}) {
    const names = [`${PREFIX}${name}`, ...(isVllm && this.#withAliases ? [`${VLLM_PREFIX}${name}`] : [])];
    return names.map((full) => ({ name: full, help, labelNames: [...labelNames], registers: [this.#registry] }));
  }
}

interface UnderWay {
  firstTokenMs?: number;
  preemptions: number;
}

/** @returns a function that counts the events of an engine under a model's name */
export function engineMetrics(instruments: Instruments): (name: string, engine: Engine) => void {
  const promptTokens = instruments.counter("prompt_tokens_total", "Tokens of accepted prompts", VLLM);
  const generationTokens = instruments.counter("generation_tokens_total", "Generated tokens", VLLM);
  const prefixQueries = instruments.counter(
    "prefix_cache_queries_total",
    "Prompt tokens looked up in the prefix cache",
    VLLM,
  );
  const prefixHits = instruments.counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache", VLLM);
  const preemptions = instruments.counter("num_preemptions_total", "Preemptions of sequences", VLLM);
  const finished = instruments.counter("request_success_total", "Finished sequences, by reason", {
    ...VLLM,
    labelNames: ["model_name", "finished_reason"],
  });
  const histogram = (name: string, help: string, buckets: readonly number[], options?: MetricOptions): HistogramOf =>
    instruments.histogram(name, help, buckets, options);
  const seconds = (name: string, help: string): HistogramOf => histogram(name, help, REQUEST_SECONDS);
  const tokenSeconds = histogram("inter_token_latency_seconds", "Time between two tokens of a sequence", TOKEN_SECONDS);
  const queueSeconds = seconds("request_queue_time_seconds", "Time until a sequence first ran");
  const inferenceSeconds = seconds("request_inference_time_seconds", "Time from a sequence's first step to its end");
  const prefillSeconds = seconds(
    "request_prefill_time_seconds",
    "Time from a sequence's first step to its first token",
  );
  const decodeSeconds = seconds("request_decode_time_seconds", "Time from a sequence's first token to its end");
  const promptSizes = histogram("request_prompt_tokens", "Tokens of a prompt", TOKEN_COUNTS);
  const completionSizes = histogram("request_generation_tokens", "Tokens of a completion", TOKEN_COUNTS);
  const preemptionsOf = histogram("request_num_preemptions", "Preemptions of one sequence", SMALL_COUNTS);
  const stepTokens = histogram("iteration_tokens_total", "Tokens of a step", TOKEN_COUNTS);
  const stepSeconds = histogram("step_duration_seconds", "Duration of a step", STEP_SECONDS, {});
  const stepError = histogram(
    "step_prediction_error_seconds",
    "Difference between a step's predicted and real duration",
    STEP_SECONDS,
    {},
  );
  const uniqueExperts = histogram("batch_unique_experts", "Distinct experts of a step", SMALL_COUNTS, {});

  const watched = new WeakSet<Engine>();
  return (name, engine) => {
    // An engine that serves two names, or the same name twice, is counted once, under the first.
    if (watched.has(engine)) return;
    watched.add(engine);
    const labels = { model_name: name };
    const sequences = new Map<string, UnderWay>();
    const underWay = (id: string): UnderWay => {
      const known = sequences.get(id) ?? { preemptions: 0 };
      sequences.set(id, known);
      return known;
    };
    engine.events
      .on("sequence:queued", (event) => {
        promptTokens.inc(labels, event.promptTokens);
        underWay(event.sequenceId);
      })
      .on("sequence:preempted", ({ sequenceId }) => {
        preemptions.inc(labels);
        underWay(sequenceId).preemptions++;
      })
      .on("token:generated", ({ sequenceId, isFirst, sinceMs }) => {
        generationTokens.inc(labels);
        if (isFirst) underWay(sequenceId).firstTokenMs = sinceMs;
        else tokenSeconds.observe(labels, sinceMs / 1000);
      })
      .on("sequence:finished", (event) => {
        const { firstTokenMs, preemptions: count = 0 } = sequences.get(event.sequenceId) ?? {};
        sequences.delete(event.sequenceId);
        finished.inc({ ...labels, finished_reason: event.reason });
        prefixQueries.inc(labels, event.promptTokens);
        prefixHits.inc(labels, event.cachedTokens);
        queueSeconds.observe(labels, event.queuedMs / 1000);
        promptSizes.observe(labels, event.promptTokens);
        completionSizes.observe(labels, event.completionTokens);
        preemptionsOf.observe(labels, count);
        // A sequence that was aborted before its first token has no times.
        if (firstTokenMs === undefined) return;
        inferenceSeconds.observe(labels, (event.durationMs - event.queuedMs) / 1000);
        prefillSeconds.observe(labels, Math.max(0, firstTokenMs - event.queuedMs) / 1000);
        decodeSeconds.observe(labels, (event.durationMs - firstTokenMs) / 1000);
      })
      .on("batch:scheduled", ({ distinctExperts }) => uniqueExperts.observe(labels, distinctExperts))
      .on("batch:completed", ({ tokens, durationMs, predictedMs }) => {
        stepTokens.observe(labels, tokens);
        stepSeconds.observe(labels, durationMs / 1000);
        stepError.observe(labels, Math.abs(predictedMs - durationMs) / 1000);
      })
      // A failed engine emits no `sequence:finished`.
      .on("engine:failed", () => sequences.clear());
  };
}

/** @param defaultName - model of requests that name none */
export function serverMetrics(instruments: Instruments, events: ReadMeEmitter, defaultName: string): void {
  const labelsOf = (model: string | undefined) => ({ model_name: model ?? defaultName });
  const counter = (name: string, help: string, ...labelNames: readonly string[]): CounterOf =>
    instruments.counter(name, help, { labelNames });

  const firstToken = instruments.histogram(
    "time_to_first_token_seconds",
    "Time from a request's arrival to its first token",
    FIRST_TOKEN_SECONDS,
  );
  const wholeRequest = instruments.histogram(
    "e2e_request_latency_seconds",
    "Time from a request's arrival to its end",
    REQUEST_SECONDS,
  );
  const choicesOf = instruments.histogram("request_params_n", "Completions that a request asks for", SMALL_COUNTS);
  const maxTokensOf = instruments.histogram(
    "request_params_max_tokens",
    "Tokens that a request may generate",
    TOKEN_COUNTS,
  );
  /** Labels of private experts in the order of their first use: anybody may read metrics. */
  const privateLabels = new Map<string, string>();
  const expertLabel = (model: string | undefined, expert: string): string => {
    const id = JSON.stringify([model, expert]);
    const label = privateLabels.get(id) ?? `private-${privateLabels.size + 1}`;
    privateLabels.set(id, label);
    return label;
  };
  const ofExpert = counter(
    "expert_requests_total",
    "Admitted requests that name an expert, by expert; a number stands for its name where `experts.permit` hides names",
    "model_name",
    "expert",
  );
  const rejected = counter("admission_rejected_total", "Rejected requests, by reason", "model_name", "reason");
  const failures = counter(
    "request_failures_total",
    "Requests that the server or its engine failed, by the error's code",
    "model_name",
    "code",
  );
  const localLimits = counter(
    "rate_limit_local_total",
    "Rate limits counted by this server alone, since the counts shared with others could not be read",
    "unit",
  );
  const answers = counter(
    "http_requests_total",
    "Answers, by route, method and status; 499 where the client had disconnected",
    "handler",
    "method",
    "status",
  );

  events
    .on("request:admitted", ({ model, choices, maxCompletionTokens, expert, isExpertPrivate }) => {
      // Only names of experts that the model has reach this event.
      if (expert !== undefined) {
        ofExpert.inc({ ...labelsOf(model), expert: isExpertPrivate ? expertLabel(model, expert) : expert });
      }
      choicesOf.observe(labelsOf(model), choices);
      maxTokensOf.observe(labelsOf(model), maxCompletionTokens);
    })
    .on("request:started", ({ model, sinceMs }) => firstToken.observe(labelsOf(model), sinceMs / 1000))
    .on("request:released", ({ model, isStarted, durationMs }) => {
      if (isStarted) wholeRequest.observe(labelsOf(model), durationMs / 1000);
    })
    .on("request:rejected", ({ model, reason }) => rejected.inc({ ...labelsOf(model), reason }))
    .on("request:failed", ({ model, causes }) => {
      const code = causes.find((cause) => cause.code !== undefined)?.code ?? "none";
      // The code of a caller's error can be any text.
      failures.inc({ ...labelsOf(model), code: /^\w{1,64}$/.test(code) ? code : "other" });
    })
    .on("limit:local", ({ unit }) => localLimits.inc({ unit }))
    .on("request:answered", ({ handler, method, status }) => answers.inc({ handler, method, status: `${status}` }));
}

/** @param events - bus of the models */
export function engineLifeMetrics(instruments: Instruments, events: ReadMeEmitter): void {
  const restarts = instruments.counter("engine_restarts_total", "Engines that were opened again");
  const failedRestarts = instruments.counter(
    "engine_restart_failures_total",
    "Failed attempts to open a failed engine again",
  );
  const givenUp = instruments.counter("engine_given_up_total", "Failed engines that are not opened again");
  events
    .on("engine:restarted", ({ name }) => restarts.inc({ model_name: name }))
    .on("engine:restart-failed", ({ name }) => failedRestarts.inc({ model_name: name }))
    .on("engine:given-up", ({ name }) => givenUp.inc({ model_name: name }));
}
