// Measures the memory of the engine's process with experts within a budget: 1, 8 and 32 sequences for a while, then 32
// sequences for a given time.
//
//   pnpm bench:memory <model> --data <folder of domain.jsonl> [--budget 0.25] [--minutes 10]

import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { allExpertBytes } from "./expert-bytes.ts";
import { requestsOf, type Request } from "./workload.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", default: "" },
    budget: { type: "string", default: "0.25" },
    minutes: { type: "string", default: "10" },
  },
});
const [path = "models/pocket-experts"] = positionals;
const shared = { precision: "int8", threads: 2, maxNumSeqs: 32, kvCacheBytes: 256 << 20, prefixCacheBytes: 0 } as const;
const allBytes = await allExpertBytes(path);
const expertCacheBytes = Math.ceil(Number(values.budget) * allBytes);
const engine = await ReadMeEngine.open(path, { ...shared, expertCacheBytes });
const requests = await requestsOf(engine, [values.data], 512, 3);
const atOpen = (await engine.stats()).residentBytes;
console.log(`budget ${megabytes(expertCacheBytes)} of ${megabytes(allBytes)}; just opened: ${megabytes(atOpen)}`);
for (const concurrency of [1, 8, 32]) await report(`${concurrency} sequences`, concurrency, 0.5);
for (let minute = 1; minute <= Number(values.minutes); minute++) await report(`minute ${minute}`, 32, 1);
await engine.dispose();

/** Returns the maximum of samples taken once a second. */
async function report(name: string, concurrency: number, minutes: number): Promise<void> {
  const endMs = performance.now() + 60_000 * minutes;
  let next = 0;
  const client = async (): Promise<void> => {
    while (performance.now() < endMs) {
      const { prompt, outputTokens } = requests[next++ % requests.length] as Request;
      const params = { temperature: 0, maxTokens: outputTokens, ignoreEos: true };
      for await (const chunk of engine.generate({ prompt, params })) void chunk;
    }
  };
  const working = Promise.all(Array.from({ length: concurrency }, client));
  let [most, mostUsed] = [0, 0];
  while (performance.now() < endMs) {
    const { residentBytes, expertCache } = await engine.stats();
    most = Math.max(most, residentBytes);
    mostUsed = Math.max(mostUsed, expertCache?.usedBytes ?? 0);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  await working;
  console.log(
    `${name.padEnd(14)} process ${megabytes(most)}, experts ${megabytes(mostUsed)}, the rest ${megabytes(most - expertCacheBytes)}`,
  );
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
