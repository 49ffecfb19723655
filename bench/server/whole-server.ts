// Compares the whole server with the engine alone: the same concurrent requests, over HTTP as streams and as direct
// calls.

import { ReadMeEngine } from "@readme-moe/engine";
import type { Figure } from "../kit/samples.ts";
import type { SuiteContext } from "../kit/suite.ts";
import { completions, promptsOfLoad } from "../express/load.ts";
import { ourEngine, PLACES } from "../express/our-engine.ts";
import { startServer } from "../express/server-process.ts";
import { tokensPerSecond } from "./goodput.ts";

export const WHOLE = {
  speed: "new tokens, tok/s",
  /** Share of a step's time outside of the model: scheduling, sampling, routing. */
  outside: "outside of the graph, % of a step",
} as const;

export async function measureServer(context: SuiteContext, path: string, tokens: number): Promise<readonly Figure[]> {
  await using server = await startServer("server.ts", { path, engine: ourEngine(context) });
  const ask = completions(server.url, tokens, true);
  const atOnce = async (first: number): Promise<number> => {
    const startMs = performance.now();
    const answers = await Promise.all(Array.from({ length: PLACES }, (_, index) => ask(first + index)));
    return tokensPerSecond(answers, performance.now() - startMs);
  };
  // The warm-up allocates memory and compiles code; it is not counted.
  await atOnce(0);
  return [{ metric: WHOLE.speed, value: await atOnce(PLACES) }];
}

export async function measureEngine(context: SuiteContext, path: string, tokens: number): Promise<readonly Figure[]> {
  const engine = await ReadMeEngine.open(path, ourEngine(context));
  let [stepMs, graphMs] = [0, 0];
  engine.events.on("batch:completed", ({ durationMs, forwardMs }) => {
    stepMs += durationMs;
    graphMs += forwardMs;
  });
  const prompt = promptsOfLoad();
  const ask = async (index: number): Promise<number> => {
    const params = { temperature: 0, maxTokens: tokens, ignoreEos: true };
    let numTokens = 0;
    for await (const chunk of engine.generate({ prompt: prompt(index), params })) numTokens += chunk.tokens.length;
    return numTokens;
  };
  const atOnce = async (first: number): Promise<number> => {
    const startMs = performance.now();
    const counts = await Promise.all(Array.from({ length: PLACES }, (_, index) => ask(first + index)));
    return (counts.reduce((sum, count) => sum + count, 0) * 1000) / (performance.now() - startMs);
  };
  await atOnce(0);
  [stepMs, graphMs] = [0, 0];
  const speed = await atOnce(PLACES);
  await engine.dispose();
  return [
    { metric: WHOLE.speed, value: speed },
    { metric: WHOLE.outside, value: (100 * (stepMs - graphMs)) / stepMs },
  ];
}
