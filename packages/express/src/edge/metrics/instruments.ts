// Metrics under the names of this package, and on request also under those of vLLM, for dashboards and gateways made
// for it.

import { Counter, Gauge, Histogram, type Registry } from "prom-client";

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

/** Name and description of a metric. */
export interface Naming {
  /** Name without prefix. */
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
  /** Whether vLLM has the metric, under the same name. */
  readonly isVllm?: boolean;
}

// Buckets are those of vLLM, so that its dashboards fit. Times are in seconds.
export const FIRST_TOKEN_SECONDS: readonly number[] = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
export const TOKEN_SECONDS: readonly number[] = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
export const REQUEST_SECONDS: readonly number[] = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];
export const STEP_SECONDS: readonly number[] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
/** 1, 2, 5, 10, … up to the length of a usual context. */
export const TOKEN_COUNTS: readonly number[] = [1, 10, 100, 1000, 10_000, 100_000].flatMap((n) => [n, 2 * n, 5 * n]);
export const SMALL_COUNTS: readonly number[] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 32, 64, 128];

const PREFIX = "readme_";
const VLLM_PREFIX = "vllm:";

export class Instruments {
  readonly #registry: Registry;
  readonly #withAliases: boolean;

  constructor(registry: Registry, withAliases: boolean) {
    this.#registry = registry;
    this.#withAliases = withAliases;
  }

  counter(naming: Naming): CounterOf {
    const counters = this.#configurations(naming).map((configuration) => new Counter(configuration));
    return {
      inc: (labels, value) => {
        for (const counter of counters) counter.inc(labels, value);
      },
    };
  }

  histogram(naming: Naming, buckets: readonly number[]): HistogramOf {
    const histograms = this.#configurations(naming).map(
      (configuration) => new Histogram({ ...configuration, buckets: [...buckets] }),
    );
    return {
      observe: (labels, value) => {
        for (const histogram of histograms) histogram.observe(labels, value);
      },
    };
  }

  /** @param read - called at every scrape */
  gauge(naming: Naming, read: ReadSamples): void {
    for (const configuration of this.#configurations(naming)) {
      const gauge = new Gauge({
        ...configuration,
        registers: [],
        async collect() {
          const samples = await read();
          this.reset();
          for (const { labels, value } of samples) this.set(labels, value);
        },
      });
      this.#registry.registerMetric(gauge);
    }
  }

  /** Adds a counter whose value is read. It may start again from 0, as Prometheus expects of counters. */
  readCounter(naming: Naming, read: ReadSamples): void {
    for (const configuration of this.#configurations(naming)) {
      const counter = new Counter({
        ...configuration,
        registers: [],
        async collect() {
          const samples = await read();
          this.reset();
          for (const { labels, value } of samples) this.inc(labels, value);
        },
      });
      this.#registry.registerMetric(counter);
    }
  }

  #configurations({ name, help, labelNames = ["model_name"], isVllm = false }: Naming): {
    name: string;
    help: string;
    labelNames: string[];
    registers: Registry[];
  }[] {
    const names = [`${PREFIX}${name}`, ...(isVllm && this.#withAliases ? [`${VLLM_PREFIX}${name}`] : [])];
    return names.map((full) => ({ name: full, help, labelNames: [...labelNames], registers: [this.#registry] }));
  }
}
