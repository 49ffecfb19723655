// Generates the table of metrics from the registry.

import { readMe } from "@readme-moe/express";
import { Registry, type Metric } from "prom-client";
import { code, table } from "./markdown.ts";

/** Fields that all metrics of prom-client have, but not its types. */
type Described = Metric & { readonly name: string; readonly help: string; readonly labelNames: readonly string[] };

export async function metricTable(): Promise<string> {
  const ours = registered(false);
  const vllm = new Set(registered(true).map(({ name }) => name));
  const rows = ours.map((metric) => [
    code(metric.name),
    metric.constructor.name.toLowerCase(),
    metric.labelNames.map(code).join(", "),
    metric.help,
    vllm.has(metric.name.replace("readme_", "vllm:")) ? "yes" : "",
  ]);
  return table(["metric", "type", "labels", "meaning", "`vllm:` too"], rows);
}

/** Registers all metrics; a model that never finishes loading is enough. */
function registered(vllmAliases: boolean): readonly Described[] {
  const registry = new Registry();
  readMe.operations({ models: { model: new Promise<never>(() => undefined) }, registry, vllmAliases });
  return registry.getMetricsAsArray() as unknown as readonly Described[];
}
