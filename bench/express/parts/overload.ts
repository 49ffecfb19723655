// Compares twice the capacity in requests with the capacity itself: how requests are rejected, how long the others
// wait, and the cost of rejecting. Both take turns: closed loop, overload, closed loop, …

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { numbersOf, type SuiteContext, type SuiteReport } from "../../kit/suite.ts";
import { summaryTable } from "../../kit/report.ts";
import type { Answer } from "../client.ts";
import { generatedTokens } from "../gauges.ts";
import { lazily } from "../../lazily.ts";
import { after, closedLoop, completions, openLoop, unequalTokens } from "../load.ts";
import { ourEngine } from "../our-engine.ts";
import { servedOf } from "../served.ts";
import { startServer } from "../server-process.ts";
import { loadOf, overloadSamples, overloadTargets, type Load } from "./overload-figures.ts";

/** Time until queue and steps are full. It is not counted, nor is the same time at the end, when the load runs out. */
const LEAD_SHARE = 0.2;

export async function overload(context: SuiteContext): Promise<SuiteReport> {
  const { settings, keep, say } = context;
  const { quick, rounds, seed } = settings;
  const { path, batch, tokens } = servedOf(context);
  const [seconds = 30] = numbersOf(settings, "overload-seconds", [quick ? 3 : 30]);
  const places = 2 * batch;
  const engine = ourEngine(context, batch);
  const asking = (url: string) => completions(url, unequalTokens(tokens), true);
  await using server = lazily(async () => {
    // One address stands for many clients.
    const admission = { maxRequests: places, maxClientShare: 1 };
    const started = await startServer("server.ts", { path, engine, admission });
    // The warm-up allocates memory and compiles code; it is not counted.
    await closedLoop(places, asking(started.url), after(seconds));
    return started;
  });
  const measured = (name: string, load: (url: string) => Promise<readonly Answer[]>): Promise<Load> =>
    keep(`overload | ${name}`, async () => {
      say(`overload: ${name}`);
      const { url } = await server.value();
      const answering = load(url);
      await sleep(seconds * LEAD_SHARE * 1000);
      const [before, fromMs] = [await generatedTokens(url), performance.now()];
      await sleep(seconds * (1 - LEAD_SHARE) * 1000);
      const [till, toMs] = [await generatedTokens(url), performance.now()];
      return loadOf(await answering, ((till - before) * 1000) / (toMs - fromMs));
    });
  const closed = (round: number): Promise<Load> =>
    measured(`closed loop, ${round}`, (url) => closedLoop(places, asking(url), after(seconds)));

  const calm = [await closed(0)];
  const perSecond = (calm[0]?.tokensPerSecond ?? NaN) / tokens;
  const crowded: Load[] = [];
  for (let round = 0; round < rounds; round++) {
    const random = seededRandom(seed + round);
    crowded.push(
      await measured(`twice the capacity, ${round}`, (url) => openLoop(2 * perSecond, seconds, asking(url), random)),
    );
    calm.push(await closed(round + 1));
  }
  const samples = overloadSamples(calm, crowded);
  return {
    tables: [summaryTable(samples, { title: "Overload: twice the capacity", seed })],
    targets: overloadTargets(calm, crowded),
    samples,
    notes: [
      `Overload: the capacity is ${perSecond.toFixed(2)} requests/s of ${tokens} tokens on average, with ${places} places and ${batch} in a step; ${seconds} s each.`,
    ],
  };
}
