// Metrics under our names, and where wanted under those of vLLM, too, so that dashboards and gateways made for it work.

import { Counter, Gauge, Histogram, type Registry } from "prom-client";

type Labels = Readonly<Record<string, string>>;

export interface CounterOf {
  inc(labels: Labels, value?: number): void;
}
export interface HistogramOf {
  observe(labels: Labels, value: number): void;
}

/** A value of now, or a count that somebody else keeps. */
export interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

/** What a metric is called, and what it says. */
export interface Naming {
  /** Without prefix. */
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
  /** Whether vLLM has it, under the same name. */
  readonly isVllm?: boolean;
}

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

  /** @param read - called for every scrape */
  gauge(naming: Naming, read: () => readonly Sample[] | Promise<readonly Sample[]>): void {
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

  /** A count that somebody else keeps; where that begins anew, so does this one, as Prometheus expects of counters. */
  readCounter(naming: Naming, read: () => readonly Sample[] | Promise<readonly Sample[]>): void {
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
