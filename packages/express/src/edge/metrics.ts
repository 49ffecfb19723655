// Prometheus metrics of a server: a listener on the events of its engines and its own, and a reader of their numbers.

import { rejectUnknownKeys, type ReadMeEmitter } from "@readme-moe/core";
import { collectDefaultMetrics, Registry } from "prom-client";
import type { Admission } from "./admission.ts";
import { engineMetrics } from "./metrics/engine-metrics.ts";
import { Instruments } from "./metrics/instruments.ts";
import { admissionMetrics, engineLifeMetrics, serverMetrics } from "./metrics/server-metrics.ts";
import { stateMetrics } from "./metrics/state-metrics.ts";
import { statsMetrics } from "./metrics/stats-metrics.ts";
import type { Heartbeat } from "./operations/heartbeat.ts";
import type { ServedModels } from "./served-models.ts";

export interface MetricsOptions {
  readonly models: ServedModels;
  readonly heartbeat: Heartbeat;
  readonly admission?: Admission | undefined;
  /** The bus that admission and guard tell their events on, and failed requests are told. @default that of `models` */
  readonly events?: ReadMeEmitter | undefined;
  /** Where metrics are registered. @default a registry of its own, which has the process's metrics as well */
  readonly registry?: Registry | undefined;
  /** Gives metrics that vLLM has a second time, under its names. @default false */
  readonly vllmAliases?: boolean | undefined;
}

const NAMES = ["models", "heartbeat", "admission", "events", "registry", "vllmAliases"] as const;

/** @returns the registry, for `/metrics` */
export function collectMetrics(options: MetricsOptions): Registry {
  rejectUnknownKeys("metrics", options, NAMES);
  const { models, heartbeat, admission, events = models.events, vllmAliases = false } = options;
  const registry = options.registry ?? new Registry();
  if (!options.registry) collectDefaultMetrics({ register: registry });
  const instruments = new Instruments(registry, vllmAliases);
  serverMetrics(instruments, events, models.states()[0]?.name ?? "");
  engineLifeMetrics(instruments, models.events);
  if (admission) admissionMetrics(instruments, admission);
  stateMetrics(instruments, models, heartbeat);
  statsMetrics(instruments, models);
  models.watch(engineMetrics(instruments));
  return registry;
}
