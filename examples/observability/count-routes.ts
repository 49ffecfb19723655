// A metric besides those of the middleware: the tokens that the router sends to each expert.

import type { Engine } from "@readme-moe/core";
import { Counter, type Registry } from "prom-client";

export function countRoutes({ events, info }: Engine, registry: Registry): void {
  const tokens = new Counter({
    name: "example_routed_tokens_total",
    help: "Tokens by expert",
    labelNames: ["expert"],
    registers: [registry],
  });
  for (const expert of info.experts) tokens.inc({ expert }, 0);
  events.on("router:routed", ({ experts }) => {
    for (const expert of experts) tokens.inc({ expert: info.experts[expert] ?? "unknown" });
  });
}
