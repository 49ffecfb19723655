// Sends requests at given times, whether or not the server has answered earlier ones.

import { setMaxListeners } from "node:events";
import { seededRandom } from "@readme-moe/core";
import type { Figure } from "../kit/samples.ts";
import { type Answer, post } from "../express/client.ts";
import { openLoop, promptOf } from "../express/load.ts";
import type { ServerProcess } from "../express/server-process.ts";
import { goodputFigures, type Limits } from "./goodput.ts";

export interface OpenLoop {
  /** Opens a server; called for each rate, since an overloaded server may still work on abandoned requests. */
  readonly start: () => Promise<ServerProcess>;
  readonly warmUp: (url: string) => Promise<void>;
  /** Rates of Poisson processes in requests per second, measured one after the other. */
  readonly rates: readonly number[];
  readonly seconds: number;
  readonly tokens: number;
  readonly limits: Limits;
  readonly seed: number;
}

/** Time after the last arrival; later answers count as missing. */
const PATIENCE_MS = 5000;
const SEED_STEP = 1000;

/** Draws arrivals, the same for every server with the same seed. */
export async function measureOpenLoop(load: OpenLoop): Promise<readonly Figure[]> {
  const { start, warmUp, rates, seconds, tokens, limits, seed } = load;
  const figures: Figure[] = [];
  let numAsked = SEED_STEP * seed;
  for (const [index, rate] of rates.entries()) {
    await using server = await start();
    await warmUp(server.url);
    const signal = AbortSignal.timeout(seconds * 1000 + PATIENCE_MS);
    setMaxListeners(0, signal); // one listener for each running request
    const ask = (): Promise<Answer> => askOne(server.url, numAsked++, tokens, signal);
    const answers = await openLoop(rate, seconds, ask, seededRandom(SEED_STEP * seed + index));
    figures.push(...goodputFigures(rate, answers, seconds, limits));
  }
  return figures;
}

function askOne(url: string, index: number, tokens: number, signal: AbortSignal): Promise<Answer> {
  const sampling = { temperature: 0, ignore_eos: true, max_tokens: tokens };
  const streamed = { stream: true, stream_options: { include_usage: true } };
  return post(`${url}/v1/completions`, { prompt: promptOf(index), ...sampling, ...streamed }, { signal });
}
