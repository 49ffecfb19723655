// Cancels requests while they wait, run or stream, and checks that neither gauges nor memory retain them.

import { seededRandom } from "@readme-moe/core";
import { numbersOf, type SuiteContext, type SuiteReport } from "../../kit/suite.ts";
import { post, type Answer } from "../client.ts";
import { countsOf } from "../figures.ts";
import { cancelledSequences, stuckGauges, stuckNote } from "../gauges.ts";
import { closedLoop, promptOf, type Ask } from "../load.ts";
import { ourEngine } from "../our-engine.ts";
import { servedOf } from "../served.ts";
import { startServer } from "../server-process.ts";
import { noneOf, targetUnder } from "./targets.ts";

const AT_ONCE = 50;
/** Longest time before a client leaves. Few requests run concurrently, so most wait all this time. */
const MAX_PATIENCE_MS = 300;
const WARM_UP_REQUESTS = 1000;
const MAX_GROWTH_PERCENT = 5;
/** Minimum of requests that must reach the engine for its cleanup to be tested. */
const LEAST_COME_PERCENT = 50;

interface Cancelled {
  /** Counts of outcomes. */
  readonly fates: string;
  readonly numAnswered: number;
  readonly numComeToEngine: number;
  readonly stuck: readonly string[];
  readonly bytes: Readonly<Record<"server" | "engine", { readonly before: number; readonly after: number }>>;
}

export async function cancelled(context: SuiteContext): Promise<SuiteReport> {
  const { settings, keep, say } = context;
  const [count = 10_000] = numbersOf(settings, "cancelled", [settings.quick ? 200 : 10_000]);
  const measured = await keep("cancelled", () => {
    say(`cancelled: ${count} requests`);
    return measure(context, count);
  });
  const { fates, numAnswered, numComeToEngine, stuck, bytes } = measured;
  const grown = (part: "server" | "engine"): number => 100 * (bytes[part].after / bytes[part].before - 1);
  const parts = ["server", "engine"] as const;
  return {
    tables: [
      {
        title: `${count} requests given up within ${MAX_PATIENCE_MS} ms, ${AT_ONCE} at once: memory, MB`,
        columns: ["", "before", "after"],
        rows: parts.map((part) => [part, megabytes(bytes[part].before), megabytes(bytes[part].after)]),
      },
    ],
    targets: [
      ...parts.map((part) =>
        targetUnder(`cancelled: memory of the ${part} grew by`, grown(part), "%", MAX_GROWTH_PERCENT),
      ),
      noneOf("cancelled: gauges that are not 0", stuck.length),
      // The other clients left before their bodies were read.
      {
        what: "cancelled: had come to the engine",
        value: (100 * numComeToEngine) / count,
        unit: "%",
        wanted: "over",
        limit: LEAST_COME_PERCENT,
      },
      noneOf("cancelled: answered nevertheless", numAnswered),
    ],
    samples: parts.map((variant) => ({
      metric: "memory grew by, %",
      at: "",
      value: grown(variant),
      variant,
      round: 0,
      turn: 0,
    })),
    notes: [`Cancelled: ${fates}; ${numComeToEngine} had come to the engine.${stuckNote(stuck)}`],
  };
}

async function measure(context: SuiteContext, count: number): Promise<Cancelled> {
  const { path, batch } = servedOf(context);
  const engine = ourEngine(context, batch);
  await using server = await startServer("server.ts", { path, engine, admission: { maxRequests: 2 * AT_ONCE } });
  const ask = impatient(server.url, context.settings.seed);
  const warmUp = Math.min(count, WARM_UP_REQUESTS);
  await closedLoop(AT_ONCE, ask, (asked) => asked >= warmUp);
  await stuckGauges(server.url);
  const before = await server.memory();
  const comeBefore = await cancelledSequences(server.url);
  const answers = await closedLoop(AT_ONCE, ask, (asked) => asked >= count);
  const stuck = await stuckGauges(server.url);
  const after = await server.memory();
  return {
    fates: countsOf(answers.map(fateOf)),
    numAnswered: answers.filter(({ status }) => status !== 0).length,
    numComeToEngine: (await cancelledSequences(server.url)) - comeBefore,
    stuck,
    bytes: {
      server: { before: before.server, after: after.server },
      engine: { before: before.engine, after: after.engine },
    },
  };
}

function impatient(url: string, seed: number): Ask {
  const random = seededRandom(seed);
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

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
