// Measures files with recurrences beside one with attention alone, by turns: first tokens behind prompts, tokens while
// several requests decode, and the second turn of a chat. Answers of random weights mean nothing, their times do.
//
//   npm run bench:random-file -- qwen3.5-0.8b hybrid.gguf
//   npm run bench:random-file -- qwen3.5-0.8b-attention attention.gguf
//   npm run bench:hybrids -- hybrid.gguf attention.gguf [--rounds 5] [--threads 2] [--contexts 512,4096] [--requests ""]

import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { randomInteger, seededRandom } from "../test/support/random.ts";
import { median } from "./kit/statistics.ts";

const { values, positionals: paths } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    contexts: { type: "string", default: "512,4096" },
    requests: { type: "string", default: "1,4,16" },
  },
});
if (paths.length === 0) throw new TypeError("Expected at least one file");
const [contexts, requests] = [values.contexts, values.requests].map((list) =>
  list.split(",").filter(Boolean).map(Number),
);
const DECODED = 48;
const TURN_TOKENS = 16;

const random = seededRandom(1);
// Ids that every vocabulary has.
const ids = (length: number): number[] => Array.from({ length }, () => 300 + randomInteger(random, 9000));

/** Times of one file by name, in ms. */
const times = new Map<string, Map<string, number[]>>();

/** Lengths of first prompts, and times to the first token of the second turn as parts of those of the first one. */
const parts = new Map<string, (readonly [length: number, part: number])[]>();

function note(path: string, name: string, ms: number): void {
  const own = times.get(path) ?? new Map<string, number[]>();
  times.set(path, own);
  own.set(name, [...(own.get(name) ?? []), ms]);
}

interface Answered {
  readonly firstMs: number;
  readonly restMs: number;
  readonly ids: readonly number[];
}

async function answer(engine: ReadMeEngine, prompt: readonly number[], maxTokens: number): Promise<Answered> {
  const startMs = performance.now();
  let firstMs = 0;
  const got: number[] = [];
  for await (const { tokens } of engine.generate({ prompt, params: { maxTokens, temperature: 0, ignoreEos: true } })) {
    if (firstMs === 0 && tokens.length > 0) firstMs = performance.now() - startMs;
    got.push(...tokens.map(({ id }) => id));
  }
  return { firstMs, restMs: performance.now() - startMs - firstMs, ids: got };
}

async function round(path: string): Promise<void> {
  const threads = Number(values.threads);
  await using engine = await ReadMeEngine.open(path, { threads, speculation: false, contextTokens: 8192 });
  await answer(engine, ids(8), 4);
  for (const length of contexts!) {
    const prompt = ids(length);
    const { firstMs, ids: own } = await answer(engine, prompt, 8);
    note(path, `prompt of ${length} tokens`, firstMs);
    const second = await answer(engine, [...prompt, ...own, ...ids(TURN_TOKENS)], 2);
    note(path, `second turn behind ${length}`, second.firstMs);
    parts.set(path, [...(parts.get(path) ?? []), [length, second.firstMs / firstMs]]);
  }
  for (const count of requests!) {
    const all = await Promise.all(Array.from({ length: count }, () => answer(engine, ids(24), DECODED)));
    note(path, `a token, ${count} together`, median(all.map(({ restMs }) => restMs)) / (DECODED - 1) / count);
  }
}

const rounds = Number(values.rounds);
for (let turn = 0; turn < rounds; turn++) {
  for (const path of turn % 2 === 0 ? paths : paths.toReversed()) await round(path);
}
const sizes = new Map<string, number>();
for (const path of paths) sizes.set(path, (await stat(path)).size);
const [base = ""] = paths.slice(-1);
console.log(`| median ms (beside ${basename(base)}) | ${paths.map((path) => basename(path)).join(" | ")} |`);
console.log(`| --- | ${paths.map(() => "---:").join(" | ")} |`);
for (const name of times.get(base)?.keys() ?? []) {
  const cells = paths.map((path) => {
    const [own, other] = [path, base].map((one) => median(times.get(one)?.get(name) ?? []));
    return `${own!.toFixed(1)} (${(own! / other!).toFixed(2)})`;
  });
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}
for (const path of paths) {
  for (const length of contexts!) {
    const own = (parts.get(path) ?? []).flatMap(([other, part]) => (other === length ? [100 * part] : []));
    const range = [Math.min(...own), Math.max(...own)].map((percent) => percent.toFixed(1)).join(" to ");
    const middle = median(own).toFixed(1);
    console.log(
      `${basename(path)}: first token of the second turn behind ${length}: ${middle} % (${range} %) of the first's`,
    );
  }
}
console.log(`\nMB: ${paths.map((path) => `${basename(path)} ${Math.round((sizes.get(path) ?? 0) / 1e6)}`).join(", ")}`);
