// A server on Bun or Deno, which asks itself. Argument: the model's folder. Prints one line of JSON.

import { ReadMeEngine } from "@readme-moe/engine";
import { fetchHandler } from "@readme-moe/express/fetch";

/** Parts of Bun's and Deno's globals that the program uses. */
interface Hosts {
  readonly Bun?: { serve(options: object): { readonly port: number } };
  readonly Deno?: { serve(options: object, handler: unknown): { readonly addr: { readonly port: number } } };
}

const [, , model = ""] = process.argv;
const engine = await ReadMeEngine.open(model, { threads: 1 });
const api = fetchHandler({ engine });
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
const left = await ask({ stream: true, max_tokens: 200, ignore_eos: true }, client.signal);
await left.body?.getReader().read();
client.abort();
while ((await engine.stats()).numRunning > 0) await new Promise((resolve) => setTimeout(resolve, 20));
console.log(
  JSON.stringify({
    text: whole.choices[0]?.text,
    streamed: Array.from(events.matchAll(/"text":"((?:[^"\\]|\\.)*)"/g), ([, text]) => text).join(""),
    isDone: events.trimEnd().endsWith("data: [DONE]"),
    bound: bound.choices[0]?.text,
    refused: refused.status,
  }),
);
await api.dispose();
process.exit(0);
