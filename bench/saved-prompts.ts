// Time to the first token behind a long prompt: computed, read from a saved file, and kept in memory.
//
//   node --conditions=@readme-moe/source --import tsx bench/saved-prompts.ts [model] [tokens] [rounds]

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ReadMeEngine, type EngineOptions } from "@readme-moe/engine";
import { median } from "./kit/statistics.ts";

const [model = "smollm2:135m", tokens = "2000", rounds = "3"] = process.argv.slice(2);
const QUESTION = " The question is how";
const WORDS = "The captain of the ship knew that the harbour was near, and asked the pilot for the chart. ";

const folder = await mkdtemp(join(tmpdir(), "readme-moe-saved-"));
const times = { computed: [] as number[], saved: [] as number[], kept: [] as number[] };

async function firstTokenMs(engine: ReadMeEngine, prompt: readonly number[]): Promise<number> {
  const startMs = performance.now();
  const generation = engine.generate({ prompt, params: { maxTokens: 1, temperature: 0 } });
  await generation.next();
  const durationMs = performance.now() - startMs;
  await generation.return?.();
  return durationMs;
}

function open(options: EngineOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(model, { precision: "int8", ...options });
}

try {
  for (let round = 0; round < Number(rounds); round++) {
    const plain = await open({ prefixCacheBytes: 0 });
    const question = Array.from(await plain.tokenize(QUESTION, { addSpecialTokens: false }));
    const text = WORDS.repeat(Math.ceil(Number(tokens) / 15));
    const system = Array.from(await plain.tokenize(text)).slice(0, Number(tokens));
    const prompt = [...system, ...question];
    times.computed.push(await firstTokenMs(plain, prompt));
    await plain.dispose();

    const writer = await open({ savedPromptsFolder: folder });
    await writer.keepPrompt(system);
    await writer.dispose();

    const reader = await open({ savedPromptsFolder: folder });
    const startMs = performance.now();
    const { source } = await reader.keepPrompt(system);
    if (source !== "saved") throw new Error(`Expected a saved prompt, got one that was ${source}`);
    await firstTokenMs(reader, prompt);
    times.saved.push(performance.now() - startMs);
    times.kept.push(await firstTokenMs(reader, prompt));
    await reader.dispose();
  }
  const [computed, saved, kept] = [median(times.computed), median(times.saved), median(times.kept)];
  const row = (name: string, ms: number): string => `${name}: ${ms.toFixed(1)} ms, ${(computed / ms).toFixed(1)} times`;
  console.log(`${model}, ${tokens} tokens and ${QUESTION.length} chars, median of ${rounds}`);
  console.log(row("computed", computed));
  console.log(row("read from its file, with the first request", saved));
  console.log(row("kept in memory", kept));
} finally {
  await rm(folder, { recursive: true, force: true });
}
