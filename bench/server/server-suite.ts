// Servers under an open-loop load, and the cost of a server around its engine.

import { curvesPanel, summaryTable } from "../kit/report.ts";
import { interleave, type Interleaved } from "../kit/turns.ts";
import { median } from "../kit/statistics.ts";
import { numbersOf, type Suite, type SuiteReport, type Target } from "../kit/suite.ts";
import { valuesOf } from "../kit/samples.ts";
import { closedLoop, completions } from "../express/load.ts";
import { PLACES } from "../express/our-engine.ts";
import { serverContenders, type ServerContender } from "./contenders.ts";
import { type Limits, SERVER_METRICS } from "./goodput.ts";
import { measureOpenLoop } from "./open-loop.ts";
import { measureEngine, measureServer, WHOLE } from "./whole-server.ts";

/** Arrival rates as shares of our server's capacity. */
const SHARES = { quick: [50], whole: [30, 60, 90] } as const;
/** Rounds that resolve a difference of a few percent. */
const LEAST_PAIRS = 7;
const WHOLE_SERVER_WANTED = 0.9;

export const serverSuite: Suite = {
  name: "server",
  summary: "goodput and latency over HTTP under Poisson arrivals; the cost of HTTP around the engine",
  async run(context) {
    const { settings, keep, say } = context;
    const { quick, seed } = settings;
    const [tokens = 32] = numbersOf(settings, "tokens", [quick ? 8 : 32]);
    const [seconds = 12] = numbersOf(settings, "seconds", [quick ? 3 : 12]);
    const [firstMs = 1000] = numbersOf(settings, "first-ms", [1000]);
    const [perTokenMs = 100] = numbersOf(settings, "per-token-ms", [100]);
    const limits = { firstMs, perTokenMs };
    const contenders = await serverContenders(context);
    const [ours] = contenders;
    if (!ours) throw new Error("Expected a server to measure, got none");
    say("capacity of our server");
    const capacity = await keep("capacity", () => capacityOf(ours, quick ? 1 : 3, tokens));
    const shares = numbersOf(settings, "shares", quick ? SHARES.quick : SHARES.whole);
    const rates = shares.map((share) => Math.round(share * capacity) / 100);
    const loaded = await interleave(
      context,
      "open loop",
      contenders.map(({ name, start }) => ({
        name,
        measure: (roundSeed) =>
          measureOpenLoop({
            start,
            warmUp: (url) => warmUp(url, tokens),
            rates,
            seconds,
            tokens,
            limits,
            seed: roundSeed,
          }),
      })),
    );
    const path = settings.dense ?? settings.model;
    const pair = [
      { name: "the engine, called", measure: () => measureEngine(context, path, 2 * tokens) },
      { name: "the server, over HTTP", measure: () => measureServer(context, path, 2 * tokens) },
    ];
    const around = await interleave(context, "whole server", pair, quick ? 1 : Math.max(LEAST_PAIRS, settings.rounds));
    const notes = [
      `Our server answers ${capacity.toFixed(2)} requests per second of ${tokens} tokens with ${PLACES} always running; arrivals are shares of that.`,
      `Limits: the first token within ${firstMs} ms, the others ${perTokenMs} ms each. Requests without an answer 5 s after the last arrival count as unanswered.`,
      "The client shares the server's cores.",
    ];
    return report({ seed, limits, rates, loaded, around, notes });
  },
};

async function capacityOf({ start }: ServerContender, rounds: number, tokens: number): Promise<number> {
  await using server = await start();
  await warmUp(server.url, tokens);
  const numRequests = rounds * PLACES;
  const startMs = performance.now();
  await closedLoop(PLACES, completions(server.url, tokens, true), (asked) => asked >= numRequests);
  return (numRequests * 1000) / (performance.now() - startMs);
}

/** Warms up: allocates memory and compiles code before measurements. */
async function warmUp(url: string, tokens: number): Promise<void> {
  await closedLoop(4, completions(url, tokens, true), (asked) => asked >= 4);
}

interface Results {
  readonly seed: number;
  readonly limits: Limits;
  readonly rates: readonly number[];
  readonly loaded: Interleaved;
  readonly around: Interleaved;
  readonly notes: readonly string[];
}

function report({ seed, limits, rates, loaded, around, notes }: Results): SuiteReport {
  const table = (title: string, metrics: readonly (keyof typeof SERVER_METRICS)[]) =>
    summaryTable(loaded.samples, {
      title,
      seed,
      columns: metrics.flatMap((key) =>
        rates.map((at) => ({ title: `${SERVER_METRICS[key]} at ${at}/s`, metric: SERVER_METRICS[key], at })),
      ),
    });
  return {
    tables: [
      table(
        `Goodput by arrivals a second (first token within ${limits.firstMs} ms, others ${limits.perTokenMs} ms each)`,
        ["goodput", "kept", "unanswered"],
      ),
      table("First token", ["firstP50", "firstP95", "firstP99"]),
      table("Tokens after the first", ["tokenP50", "tokenP95", "tokenP99"]),
      summaryTable(around.samples, { title: `${PLACES} requests at once, with and without the server`, seed }),
    ],
    targets: wholeServerTarget(around),
    pictures: [
      {
        name: "goodput",
        picture: {
          title: "Goodput by arrivals",
          description: "requests a second that kept to the limits, and the 95th percentile of the first token",
          xTitle: "arrivals a second",
          rows: [
            {
              panels: [
                curvesPanel(loaded.samples, SERVER_METRICS.goodput),
                curvesPanel(loaded.samples, SERVER_METRICS.firstP95),
              ],
            },
          ],
        },
      },
    ],
    samples: [...loaded.samples, ...around.samples],
    notes: [
      ...notes,
      ...Array.from([...loaded.failures, ...around.failures], ([name, why]) => `${name}: not measured: ${why}`),
    ],
  };
}

function wholeServerTarget({ samples }: Interleaved): readonly Target[] {
  const speedOf = (variant: string): number => median(valuesOf(samples, { variant, metric: WHOLE.speed }));
  const value = speedOf("the server, over HTTP") / speedOf("the engine, called");
  const what = "speed of the whole server by the engine's alone";
  return [{ what, value, unit: "", wanted: "over", limit: WHOLE_SERVER_WANTED }];
}
