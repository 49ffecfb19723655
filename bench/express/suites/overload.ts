// Twice as many requests as can be answered, against as many as can be: how those are refused that find no place, how
// long the others wait, and what refusing costs the others. The two take turns: closed loop, overload, closed loop, …

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { mean, percentile } from "readme-moe/bench";
import type { Answer } from "../client.ts";
import { countsOf, printTable, verdict } from "../figures.ts";
import { generatedTokens } from "../gauges.ts";
import { after, closedLoop, completions, openLoop, unequalTokens } from "../load.ts";
import { startServer } from "../server-process.ts";
import type { Settings } from "../settings.ts";

interface Measured {
  readonly answers: readonly Answer[];
  readonly tokensPerSecond: number;
}

/** Until the queue is full and steps are; and at the end nothing counts, since the load runs dry. */
const LEAD_SHARE = 0.2;

export async function overload({ path, seconds, rounds, batch, tokens, threads }: Settings): Promise<boolean> {
  const places = 2 * batch;
  const engine = { threads, maxNumSeqs: batch, prefixCacheBytes: 0 };
  await using server = await startServer("server.ts", { path, engine, admission: { maxRequests: places } });
  const { url } = server;
  const random = seededRandom(1);
  const ask = completions(url, unequalTokens(tokens), true);

  const measured = async (load: () => Promise<readonly Answer[]>): Promise<Measured> => {
    const answering = load();
    await sleep(seconds * LEAD_SHARE * 1000);
    const [before, fromMs] = [await generatedTokens(url), performance.now()];
    await sleep(seconds * (1 - LEAD_SHARE) * 1000);
    const [after_, toMs] = [await generatedTokens(url), performance.now()];
    return { answers: await answering, tokensPerSecond: ((after_ - before) * 1000) / (toMs - fromMs) };
  };
  const closed = (): Promise<Measured> => measured(() => closedLoop(places, ask, after(seconds)));

  await closed();
  const calm = [await closed()];
  const perSecond = (calm[0]?.tokensPerSecond ?? NaN) / tokens;
  const crowded: Measured[] = [];
  for (let round = 0; round < rounds; round++) {
    crowded.push(await measured(() => openLoop(2 * perSecond, seconds, ask, random)));
    calm.push(await closed());
  }

  console.log(
    `capacity: ${perSecond.toFixed(2)} requests/s of ${tokens} tokens on average, ${places} places, ${batch} in a step`,
  );
  printTable([
    ["", "tokens/s", "first token p50", "p95", "p99", "refused", "in ms p50", "p99", "answers"],
    ...calm.flatMap((each, index) => {
      const next = crowded[index];
      return next ? [row("closed loop", each), row("twice the capacity", next)] : [row("closed loop", each)];
    }),
  ]);
  const refusals = crowded.flatMap(({ answers }) => answers).filter(isRefusal);
  const firstMs = (of: readonly Measured[]): number => percentile(of.flatMap(firstTokensMs), 99);
  const losses = crowded.map(({ tokensPerSecond }, index) => {
    const around = mean(calm.slice(index, index + 2).map((each) => each.tokensPerSecond));
    return 100 * (1 - tokensPerSecond / around);
  });
  const others = crowded.flatMap(({ answers }) => answers).filter((answer) => !isRefusal(answer) && !isAnswer(answer));
  return [
    verdict(
      "refusals, p99",
      percentile(
        refusals.map(({ totalMs }) => totalMs),
        99,
      ),
      "ms",
      20,
    ),
    // As long as it takes when all places are always taken, and a half more for arrivals that come in bunches.
    verdict("first token at twice the capacity, p99", firstMs(crowded), "ms", Math.round(1.5 * firstMs(calm))),
    verdict("throughput lost", mean(losses), "%", 2),
    verdict("neither answered nor refused", others.length, "requests", 1),
  ].every(Boolean);
}

function isRefusal({ status, errorCode }: Answer): boolean {
  return status === 503 && errorCode === "server_overloaded";
}

function isAnswer({ status, isWhole, errorCode }: Answer): boolean {
  return status === 200 && isWhole && errorCode === undefined;
}

function firstTokensMs({ answers }: Measured): readonly number[] {
  return answers.filter(isAnswer).map((answer) => answer.firstMs);
}

function row(name: string, measured: Measured): readonly (string | number)[] {
  const { answers, tokensPerSecond } = measured;
  const refusalMs = answers.filter(isRefusal).map(({ totalMs }) => totalMs);
  const first = firstTokensMs(measured);
  const counts = countsOf(answers.map(({ status }) => status));
  return [
    name,
    tokensPerSecond,
    ...[50, 95, 99].map((percent) => percentile(first, percent)),
    String(refusalMs.length),
    ...(refusalMs.length > 0 ? [50, 99].map((percent) => percentile(refusalMs, percent)) : ["–", "–"]),
    counts,
  ];
}
