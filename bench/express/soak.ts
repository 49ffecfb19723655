// Runs mixed traffic for a long time: whole answers, streams, clients that leave, invalid requests, slow readers,
// killed and restarted engines, and swaps. Prints a line a minute, and checks at the end for leaks, hangs and
// leftovers.
//
//   pnpm bench:soak [model] [--minutes 30] [--line-seconds 60] [--swap-seconds 45] [--kill-seconds 100] [--threads 2]

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { countsOf, slope, verdict, verdictOf } from "./figures.ts";
import { stuckGauges } from "./gauges.ts";
import { startServer } from "./server-process.ts";
import { mixedTraffic } from "./traffic.ts";

const MAX_GROWTH_PERCENT = 5;
/** Share of the time in which runtime and compiler still allocate memory; not judged. */
const SETTLING_SHARE = 0.2;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    minutes: { type: "string", default: "30" },
    "line-seconds": { type: "string", default: "60" },
    "swap-seconds": { type: "string", default: "45" },
    "kill-seconds": { type: "string", default: "100" },
    threads: { type: "string", default: "2" },
  },
});
const lineSeconds = Number(values["line-seconds"]);
const numLines = Math.max(3, Math.round((Number(values.minutes) * 60) / lineSeconds));
await using server = await startServer("server.ts", {
  path: positionals[0] ?? "models/pocket",
  engine: { threads: Number(values.threads), maxNumSeqs: 4 },
  admission: { maxRequests: 16 },
  restarts: true,
});

const end = new AbortController();
const counts = { swap: 0, kill: 0 };
/** Injects one fault at a time: a killed engine is restarted before the next. */
const fault = async (name: "swap" | "kill", seconds: number): Promise<void> => {
  for (;;) {
    await sleep(seconds * 1000, undefined, { signal: end.signal });
    if (await isHealthy()) await server.call(name).then(() => counts[name]++);
  }
};
const faults = [fault("swap", Number(values["swap-seconds"])), fault("kill", Number(values["kill-seconds"]))].map(
  (going) =>
    going.catch((error: unknown) => {
      if (!end.signal.aborted) throw error;
    }),
);

const traffic = mixedTraffic(server.url, end.signal);
const memory: Awaited<ReturnType<typeof server.memory>>[] = [];
let numTold = 0;
for (let line = 1; line <= numLines; line++) {
  await sleep(lineSeconds * 1000);
  const outcomes = traffic.outcomes.slice(numTold);
  numTold += outcomes.length;
  const bytes = await server.memory();
  memory.push(bytes);
  const megabytes = `${(bytes.server / 1e6).toFixed(0)} + ${(bytes.engine / 1e6).toFixed(0)} MB`;
  console.log(`${line}: ${countsOf(outcomes.map(({ text }) => text))}`);
  console.log(`   stuck: ${traffic.numStuck()}; ${megabytes}; swaps: ${counts.swap}; kills: ${counts.kill}`);
}
end.abort();
await Promise.all([...faults, traffic.ended]);
while (!(await isHealthy())) await sleep(100);

const stuck = await stuckGauges(server.url);
const { numEngines } = await server.memory();
const settled = memory.slice(Math.floor(memory.length * SETTLING_SHARE));
const servers = settled.map((each) => each.server);
const serverGrowth = (100 * slope(servers) * (servers.length - 1)) / (servers[0] ?? NaN);
/** Judges engines by the largest memory of any: an engine lives until the next swap and allocates as needed. */
const most = (of: typeof memory): number => {
  const alone = of.filter((each) => each.numEngines === 1).map(({ engine }) => engine);
  return alone.length === 0 ? NaN : Math.max(...alone);
};
const middle = Math.ceil(settled.length / 2);
const engineGrowth = 100 * (most(settled.slice(middle)) / most(settled.slice(0, middle)) - 1);
const wrong = traffic.outcomes.filter(({ isExpected }) => !isExpected);
console.log(`${traffic.outcomes.length} requests, ${counts.swap} swaps, ${counts.kill} kills`);
const isMet = [
  verdict("memory of the server grew by", serverGrowth, "%", MAX_GROWTH_PERCENT),
  verdict("memory of the largest engine, second half against first, grew by", engineGrowth, "%", MAX_GROWTH_PERCENT),
  verdictOf(`no request is stuck: ${traffic.numStuck()}`, traffic.numStuck() === 0),
  verdictOf(`answers are allowed ones: ${countsOf(wrong.map(({ text }) => text)) || "all"}`, wrong.length === 0),
  verdictOf("one engine is left", numEngines === 1),
  verdictOf(`all gauges are 0${stuck.length > 0 ? `, but ${stuck.join(", ")}` : ""}`, stuck.length === 0),
].every(Boolean);
if (!isMet) process.exitCode = 1;

async function isHealthy(): Promise<boolean> {
  return (await fetch(`${server.url}/health`)).status === 200;
}
