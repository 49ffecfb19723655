import { ReadMeEngine } from "@readme-moe/engine";
import { fetchHandler } from "@readme-moe/express/fetch";
const started = performance.now();
const isolation = process.argv[2] ?? "process";
try {
  const engine = await ReadMeEngine.open("models/pocket", { isolation: isolation as "process", threads: 1 });
  const api = fetchHandler({ engine });
  const port = 18999;
  const g = globalThis as any;
  if (g.Bun) g.Bun.serve({ port, fetch: api.fetch, idleTimeout: 0 });
  else if (g.Deno) g.Deno.serve({ port }, api.fetch);
  const url = `http://127.0.0.1:${port}`;
  const ask = async (body: object, signal?: AbortSignal) => fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ prompt: "The ship", max_tokens: 8, temperature: 0, ...body }), signal });
  const whole = await ask({});
  console.log(isolation, whole.status, (await whole.text()).slice(0, 300), Math.round(performance.now() - started));
  const stream = await ask({ stream: true });
  console.log((await stream.text()).slice(-120));
  const client = new AbortController();
  const long = await ask({ stream: true, max_tokens: 200, ignore_eos: true }, client.signal);
  await long.body!.getReader().read();
  client.abort();
  for (let i = 0; i < 100 && (await engine.stats()).numRunning > 0; i++) await new Promise((r) => setTimeout(r, 20));
  console.log("after abort", (await engine.stats()).numRunning);
  const bad = await ask({ nope: 1 }); console.log(bad.status, await bad.text());
  const g2 = await ask({ guided_choice: ["yes", "no"] }); console.log("grammar", g2.status, (await g2.text()).slice(0, 200));
  console.log("disposed", await api.dispose());
} catch (error) { console.log("FAILED", error); }
process.exit(0);
