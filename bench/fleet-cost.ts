// Measures what a fleet costs on one machine: a server with a model of its own, and a front with one worker, as processes, asked over HTTP
// in turns. Then sends the fleet twice what it can do. `npm run bench:fleet-cost -- --rounds 40`

import { parseArgs } from "node:util";
import { seededRandom } from "@readme-moe/core";
import { completions, openLoop, type Ask } from "./express/load.ts";
import { serve } from "./hostile/served.ts";
import { markdownTable } from "./kit/report.ts";
import { median, percentile } from "./kit/statistics.ts";
import { turnsOf } from "./kit/turns.ts";
import { killMachine, startMachine } from "../test/support/fleet/machines.ts";
import { startValkey } from "../test/support/fleet/valkey.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/pocket" },
    rounds: { type: "string", default: "40" },
    tokens: { type: "string", default: "64" },
    "at-once": { type: "string", default: "8" },
    /** Duration of the overload; 0 leaves it out. */
    "overload-seconds": { type: "string", default: "20" },
    "max-queue-ms": { type: "string", default: "1000" },
  },
});
const [numRounds, maxTokens, numAtOnce] = [Number(values.rounds), Number(values.tokens), Number(values["at-once"])];
const WARM_UP_ROUNDS = 2;

const asker = (url: string): Ask => completions(url, maxTokens, true);

interface Times {
  readonly first: number[];
  readonly token: number[];
  readonly goodput: number[];
}

/** Asks one question, then several at once. */
async function measure(ask: Ask, round: number, { first, token, goodput }: Times): Promise<void> {
  const alone = await ask(round);
  const startMs = performance.now();
  const together = await Promise.all(Array.from({ length: numAtOnce }, (_, index) => ask(1000 * (round + 1) + index)));
  const seconds = (performance.now() - startMs) / 1000;
  const wrong = [alone, ...together].find(({ status, isWhole }) => status !== 200 || !isWhole);
  if (wrong) throw new Error(`Expected answers, got ${wrong.status}: ${wrong.tail}`);
  if (round < WARM_UP_ROUNDS) return;
  first.push(alone.firstMs);
  token.push((alone.totalMs - alone.firstMs) / (maxTokens - 1));
  goodput.push((numAtOnce * maxTokens) / seconds);
}

const valkey = await startValkey();
await using alone = await serve(values.model, 512, ["--threads", "1"]);
// `serve` computes in int8, too.
const args = ["--precision", "int8"];
const machine = await startMachine({ fleet: valkey.url, model: values.model, id: "one", args });
const flags = ["--fleet", valkey.url, "--max-queue-ms", values["max-queue-ms"], "--max-requests", "100000"];
await using front = await serve(values.model, 512, [...flags, "--max-client-share", "1"]);
const contenders = [
  { name: "serve", ask: asker(alone.url), first: [], token: [], goodput: [] },
  { name: "fleet", ask: asker(front.url), first: [], token: [], goodput: [] },
] as const satisfies readonly (Times & { readonly name: string; readonly ask: Ask })[];
while ((await contenders[1].ask(0)).status !== 200);
for (const { variant, round } of turnsOf(contenders.length, numRounds + WARM_UP_ROUNDS)) {
  const contender = contenders[variant];
  if (contender) await measure(contender.ask, round, contender);
}
const [own, fleet] = contenders as readonly [Times, Times];
const rows = contenders.map(({ name, first, token, goodput }) => [
  name,
  ...[percentile(first, 50), percentile(first, 95), percentile(token, 50), percentile(token, 95)].map((ms) =>
    ms.toFixed(2),
  ),
  median(goodput).toFixed(0),
]);
const columns = ["", "first token p50, ms", "p95", "per token p50, ms", "p95", "tokens/s p50"];
const title = `${values.model}, ${numRounds} rounds of ${maxTokens} tokens; goodput of ${numAtOnce} at once`;
console.log(markdownTable({ title, columns, rows }));
const whole = (times: readonly number[], percent: number): string => percentile(times, percent).toFixed(0);
const added = (what: "first" | "token", percent: number): string =>
  (percentile(fleet[what], percent) - percentile(own[what], percent)).toFixed(2);
console.log(`added: first token p95 ${added("first", 95)} ms, per token p50 ${added("token", 50)} ms`);
console.log(`goodput: ${(median(fleet.goodput) / median(own.goodput)).toFixed(3)} of serve`);

const overloadSeconds = Number(values["overload-seconds"]);
if (overloadSeconds > 0) {
  const rate = (2 * median(fleet.goodput)) / maxTokens;
  let numAsked = 1_000_000;
  const answers = await openLoop(rate, overloadSeconds, () => contenders[1].ask(numAsked++), seededRandom(1));
  const refused = answers.filter(({ status }) => status === 503).map(({ totalMs }) => totalMs);
  const answered = answers.filter(({ status }) => status === 200).map(({ firstMs }) => firstMs);
  const late = answers.filter(({ status }) => status === 408).length;
  console.log(
    `twice the load, ${rate.toFixed(1)} requests/s: ${answers.length} asked, ${answered.length} answered, ${refused.length} refused, ${late} ended when the promised time was over`,
  );
  console.log(`refusals: p50 ${whole(refused, 50)} ms, p99 ${whole(refused, 99)} ms`);
  console.log(
    `first token: p50 ${whole(answered, 50)} ms, p99 ${whole(answered, 99)} ms, longest promised ${values["max-queue-ms"]} ms`,
  );
}
await killMachine(machine);
await valkey.stop();
