// Every metric of `/metrics`, from the registry.

import { readMe } from "@readme-moe/express";
import { Registry, type Metric } from "prom-client";
import { code, table } from "./markdown.ts";

/** Not in prom-client's types, but on all of its metrics. */
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
  return table(["metric", "type", "labels", "is", "`vllm:` too"], rows);
}

/** A model that stays loading is enough to have all metrics. */
function registered(vllmAliases: boolean): readonly Described[] {
  const registry = new Registry();
  readMe.operations({ models: { model: new Promise<never>(() => undefined) }, registry, vllmAliases });
  return registry.getMetricsAsArray() as unknown as readonly Described[];
}
