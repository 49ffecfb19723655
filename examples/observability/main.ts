// A server with tracing spans of sequences and steps, Prometheus metrics, and a dashboard.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { BasicTracerProvider } from "@opentelemetry/sdk-trace-base";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import { collectDefaultMetrics, Registry } from "prom-client";
import { countRoutes } from "./count-routes.ts";
import { printSpans } from "./print-spans.ts";
import { traceSequences } from "./trace-sequences.ts";

const MODEL = "pocket";
const PROMPTS = ["import os\n\ndef main(", "The ship was three days out of port", "In this paper, we study"];

const engine = await ReadMeEngine.open(process.argv[2] ?? "models/pocket-experts");
const models = new ServedModels({ [MODEL]: engine });

const spans = new BasicTracerProvider({ spanProcessors: [printSpans] });
traceSequences(engine.events, spans.getTracer("readme-moe"), MODEL);

const registry = new Registry();
collectDefaultMetrics({ register: registry });
countRoutes(engine, registry);

const app = express();
app.use("/dashboard", express.static(join(import.meta.dirname, "dashboard")));
app.use(readMe({ models, registry }));
const server = app.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

await Promise.all(PROMPTS.map(ask));
console.log(`Dashboard: ${url}/dashboard  metrics: ${url}/metrics  (Ctrl-C stops it)`);

await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
await models.drain({ deadlineMs: 2000 });
await spans.shutdown();
server.close();
server.closeAllConnections();

async function ask(prompt: string): Promise<void> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: 8 }),
  });
  if (!response.ok) throw new Error(await response.text());
  await response.arrayBuffer();
}
