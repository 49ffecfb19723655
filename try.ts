import { ReadMeEngine } from "@readme-moe/engine";
const [path, precision] = process.argv.slice(2);
const t0 = performance.now();
await using engine = await ReadMeEngine.open(path, { precision: precision as any, cacheFolder: "/tmp/k/cache" } as any);
console.log(precision, "open s", ((performance.now()-t0)/1000).toFixed(2), engine.info.weightBytes/1e6);
const run = async (messages: any, maxTokens: number) => { let text=""; const t=performance.now(); let first=0; for await (const c of engine.generate({ prompt: {messages}, params: { maxTokens, temperature: 0 } } as any)) { if(!first) first=performance.now(); text += c.text; } console.log(JSON.stringify(text), "ttft", (first-t).toFixed(0), "rest", (performance.now()-first).toFixed(0)); };
await run([{role:"user",content:"What is the capital of France?"}], 32);
await run([{role:"user",content:"Write a JavaScript function that reverses a string."}], 100);
