// Requests whose clients go while they wait, run or stream: nothing is left of them, neither in a gauge nor in memory.

import { seededRandom } from "@readme-moe/core";
import { post, type Answer } from "../client.ts";
import { countsOf, verdict, verdictOf } from "../figures.ts";
import { cancelledSequences, stuckGauges } from "../gauges.ts";
import { closedLoop, promptOf, type Ask } from "../load.ts";
import { startServer } from "../server-process.ts";
import type { Settings } from "../settings.ts";

const AT_ONCE = 50;
/** Few run at once, so most of them wait all this time. */
const MAX_PATIENCE_MS = 300;
const WARM_UP_REQUESTS = 1000;
const TARGET_PERCENT = 5;

export async function cancelled({ path, batch, threads, count = 10_000 }: Settings): Promise<boolean> {
  const engine = { threads, maxNumSeqs: batch };
  await using server = await startServer("server.ts", { path, engine, admission: { maxRequests: 2 * AT_ONCE } });
  const ask = impatient(server.url);
  await closedLoop(AT_ONCE, ask, (asked) => asked >= WARM_UP_REQUESTS);
  await stuckGauges(server.url);
  const before = await server.memory();
  const comeBefore = await cancelledSequences(server.url);
  const answers = await closedLoop(AT_ONCE, ask, (asked) => asked >= count);
  const stuck = await stuckGauges(server.url);
  const left = await server.memory();
  console.log(
    `${count} requests, ${AT_ONCE} at once, given up within ${MAX_PATIENCE_MS} ms: ${countsOf(answers.map(fateOf))}`,
  );
  const come = (await cancelledSequences(server.url)) - comeBefore;
  const grown = (part: "server" | "engine"): number => {
    const percent = 100 * (left[part] / before[part] - 1);
    console.log(`${part}: ${(before[part] / 1e6).toFixed(1)} MB before, ${(left[part] / 1e6).toFixed(1)} MB after`);
    return percent;
  };
  return [
    verdict("memory of the server grew by", grown("server"), "%", TARGET_PERCENT),
    verdict("memory of the engine grew by", grown("engine"), "%", TARGET_PERCENT),
    verdictOf(`all gauges are 0${stuck.length > 0 ? `, but ${stuck.join(", ")}` : ""}`, stuck.length === 0),
    // The others went before their bodies were read.
    verdictOf(`most had come to the engine: ${come}`, come > count / 2),
    verdictOf(
      "all were given up",
      answers.every(({ status }) => status === 0),
    ),
  ].every(Boolean);
}

function impatient(url: string): Ask {
  const random = seededRandom(1);
  return (index) => {
    const signal = AbortSignal.timeout(1 + Math.floor(random() * MAX_PATIENCE_MS));
    const body = { prompt: promptOf(index), max_tokens: 200, ignore_eos: true, stream: index % 2 === 0 };
    return post(`${url}/v1/completions`, body, { signal });
  };
}

function fateOf({ status, firstMs }: Answer): string {
  if (status !== 0) return `answered with ${status}`;
  return Number.isNaN(firstMs) ? "before the first token" : "while it streamed";
}
