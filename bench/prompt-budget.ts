// Measures prompts of a mixture whose experts are not all in memory: several chunks of a prompt in a step, beside one
// chunk in a step and all experts in memory, by turns. All contenders must give the same tokens.
//
//   npm run bench:random-file -- qwen3-30b-a3b-8-layers FILE.gguf
//   npm run bench:prompt-budget -- FILE.gguf [--share 0.5] [--tokens 2048] [--rounds 3] [--threads 2]
//
// Reads come from the system's cache of files, unless the file is larger than memory.

import { parseArgs } from "node:util";
import { mixtureLayout, ReadMeEngine } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { randomInteger, seededRandom } from "../test/support/random.ts";
import { median } from "./kit/statistics.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    share: { type: "string", default: "0.5" },
    tokens: { type: "string", default: "2048" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const [path] = positionals;
if (path === undefined) throw new TypeError("Expected a file");
const [share, numTokens, rounds, threads] = [values.share, values.tokens, values.rounds, values.threads].map(Number);

const model = await openModel(path);
const { numExperts, layerBytes } = mixtureLayout(model, "file");
await model.close();
const allBytes = numExperts * layerBytes.reduce((sum, bytes) => sum + bytes, 0);
const expertCacheBytes = Math.floor((share ?? 0.5) * allBytes);
const CONTENDERS = {
  "one chunk a step": { expertCacheBytes, maxNumBatchedTokens: 128 },
  "several chunks a step": { expertCacheBytes },
  "all in memory": {},
} as const;
console.log(`${Math.round(allBytes / 1e6)} MB of experts, ${Math.round(expertCacheBytes / 1e6)} MB in memory`);

const speeds = new Map<string, number[]>();
const readBytes = new Map<string, number>();
for (let round = 0; round < (rounds ?? 1); round++) {
  const random = seededRandom(round + 1);
  const prompt = Array.from({ length: numTokens ?? 0 }, () => 300 + randomInteger(random, 9000));
  const turns = Object.entries(CONTENDERS);
  const answers = new Set<string>();
  for (const [name, options] of round % 2 === 0 ? turns : turns.toReversed()) {
    await using engine = await ReadMeEngine.open(path, {
      threads,
      contextTokens: 8192,
      speculation: false,
      ...options,
    });
    const startMs = performance.now();
    const params = { maxTokens: 1, temperature: 0, logprobs: 5 };
    for await (const { tokens } of engine.generate({ prompt, params })) answers.add(JSON.stringify(tokens));
    const speed = (1000 * prompt.length) / (performance.now() - startMs);
    speeds.set(name, [...(speeds.get(name) ?? []), speed]);
    readBytes.set(name, (await engine.stats()).expertCache?.bytesRead ?? 0);
  }
  if (answers.size > 1) throw new Error(`Expected the same tokens, got ${[...answers].join(" and ")}`);
}
const base = median(speeds.get("one chunk a step") ?? []);
for (const [name, own] of speeds) {
  const ratio = (median(own) / base).toFixed(2);
  const read = Math.round((readBytes.get(name) ?? 0) / 1e6);
  console.log(`${name.padEnd(24)} ${median(own).toFixed(1)} tokens/s (${ratio}), ${read} MB read`);
}
