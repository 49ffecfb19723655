// Serves the pocket model in Bun or Deno, asks as a client, and prints what came as one line of JSON.

import { ReadMeEngine } from "@readme-moe/engine";
import { fetchHandler, type FetchInfo } from "@readme-moe/express/fetch";

type Fetch = (request: Request, info?: FetchInfo) => Promise<Response>;
interface Runtimes {
  readonly Bun?: { serve(options: { port: number; idleTimeout: number; fetch: Fetch }): { readonly port: number } };
  readonly Deno?: { serve(options: { port: number }, fetch: Fetch): { readonly addr: { readonly port: number } } };
}

const { Bun, Deno } = globalThis as Runtimes;
const engine = await ReadMeEngine.open("models/pocket", { threads: 1, speculation: false });
const clients = new Set<string>();
const limiter = {
  points: 100,
  async consume(client: string) {
    clients.add(client);
    return { consumedPoints: 1, msBeforeNext: 1000 };
  },
};
const api = fetchHandler({ engine, requestsPerMinute: limiter as never });
const port =
  Bun?.serve({ port: 0, idleTimeout: 0, fetch: api.fetch }).port ?? Deno?.serve({ port: 0 }, api.fetch).addr.port;

const ask = (body: object, signal?: AbortSignal): Promise<Response> =>
  fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "The ship", max_tokens: 8, temperature: 0, ...body }),
    ...(signal && { signal }),
  });

interface Whole {
  readonly choices: readonly { readonly text: string }[];
}

const { choices } = (await (await ask({})).json()) as Whole;
const stream = await (await ask({ stream: true })).text();
const bound = (await (await ask({ guided_choice: ["yes", "no"] })).json()) as Whole;
const client = new AbortController();
const { body } = await ask({ stream: true, max_tokens: 1000, ignore_eos: true }, client.signal);
await body?.getReader().read();
// The ends of earlier answers may be told later than their text.
const hasEnded = new Promise<string>((resolve) => {
  engine.events.on("sequence:finished", ({ reason }) => {
    if (reason === "abort") resolve(reason);
  });
});
client.abort();
const left = await hasEnded;
const numEnded = await api.dispose();
console.log(
  JSON.stringify({
    text: choices[0]?.text,
    stream,
    bound: bound.choices[0]?.text,
    left,
    clients: [...clients],
    numEnded,
  }),
);
process.exit(0);
