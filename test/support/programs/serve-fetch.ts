// A server on Bun or Deno, which asks itself. Arguments: the model's folder, and where the engine runs. Prints one line
// of JSON.

import { ReadMeEngine } from "@readme-moe/engine";
import { fetchHandler } from "@readme-moe/express/fetch";

/** Parts of Bun's and Deno's globals that the program uses. */
interface Hosts {
  readonly Bun?: { serve(options: object): { readonly port: number } };
  readonly Deno?: { serve(options: object, handler: unknown): { readonly addr: { readonly port: number } } };
}

const [, , model = "", isolation] = process.argv;
// Drafts would end the longest answer before its client leaves.
const engine = await ReadMeEngine.open(model, {
  precision: "fp32",
  threads: 1,
  speculation: false,
  isolation: isolation === "thread" ? "thread" : "process",
});
const clients = new Set<string>();
const limiter = {
  points: 100,
  async consume(name: string) {
    clients.add(name);
    return { consumedPoints: 1, msBeforeNext: 1000 };
  },
};
const api = fetchHandler({ engine, requestsPerMinute: limiter as never });
const { Bun, Deno }: Hosts = globalThis as Hosts;
const port =
  Bun?.serve({ port: 0, fetch: api.fetch, idleTimeout: 0 }).port ??
  Deno?.serve({ port: 0, onListen: () => undefined }, api.fetch).addr.port;

async function ask(body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "The ship", max_tokens: 8, temperature: 0, ...body }),
    ...(signal && { signal }),
  });
}

const whole = (await (await ask({})).json()) as { choices: { text: string }[] };
const events = await (await ask({ stream: true })).text();
const bound = (await (await ask({ guided_choice: ["yes", "no"] })).json()) as typeof whole;
const refused = await ask({ nope: 1 });
const client = new AbortController();
const left = await ask({ stream: true, max_tokens: 1000, ignore_eos: true }, client.signal);
await left.body?.getReader().read();
// The ends of earlier answers may be told later than their text, and none of them is this one.
const hasLeft = new Promise<string>((resolve) => {
  engine.events.on("sequence:finished", ({ reason, completionTokens }) => {
    if (reason === "abort" || completionTokens === 1000) resolve(reason);
  });
});
client.abort();
const leaving = await hasLeft;
console.log(
  JSON.stringify({
    text: whole.choices[0]?.text,
    streamed: Array.from(events.matchAll(/"text":"((?:[^"\\]|\\.)*)"/g), ([, text]) => text).join(""),
    isDone: events.trimEnd().endsWith("data: [DONE]"),
    bound: bound.choices[0]?.text,
    refused: refused.status,
    leaving,
    clients: [...clients],
  }),
);
await api.dispose();
process.exit(0);
