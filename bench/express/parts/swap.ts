// Swaps a model for itself repeatedly under full load, and checks that each request is answered by exactly one engine.

import { numbersOf, type SuiteContext, type SuiteReport } from "../../kit/suite.ts";
import type { Answer } from "../client.ts";
import { countsOf } from "../figures.ts";
import { stuckGauges, stuckNote } from "../gauges.ts";
import { closedLoop, completions } from "../load.ts";
import { ourEngine } from "../our-engine.ts";
import { servedOf } from "../served.ts";
import { startServer } from "../server-process.ts";
import { noneOf } from "./targets.ts";

interface Swapped {
  readonly statuses: string;
  readonly numRequests: number;
  /** Requests without a complete answer. */
  readonly numWrong: number;
  /** Requests answered by no engine, or by several. */
  readonly numNotByOne: number;
  /** Sequences that engines finished without a request. */
  readonly numUnasked: number;
  /** Engines that answered requests. */
  readonly numEngines: number;
  /** Engines that remain at the end. */
  readonly numLeft: number;
  readonly stuck: readonly string[];
}

export async function swap(context: SuiteContext): Promise<SuiteReport> {
  const { settings, keep, say } = context;
  const [count = 100] = numbersOf(settings, "swaps", [settings.quick ? 3 : 100]);
  const measured = await keep("swap", () => {
    say(`swap: ${count} times`);
    return measure(context, count);
  });
  const { statuses, numRequests, numWrong, numNotByOne, numUnasked, numEngines, numLeft, stuck } = measured;
  return {
    tables: [],
    targets: [
      noneOf("swap: requests not answered in full", numWrong),
      noneOf("swap: requests not answered by one engine", numNotByOne),
      noneOf("swap: answers that nobody asked for", numUnasked),
      noneOf("swap: engines left besides the last", numLeft - 1),
      noneOf("swap: gauges that are not 0", stuck.length),
    ],
    samples: [],
    notes: [
      `Swap: the model was swapped ${count} times under load; ${numRequests} requests (${statuses}) were answered by ${numEngines} engines.${stuckNote(stuck)}`,
    ],
  };
}

async function measure(context: SuiteContext, count: number): Promise<Swapped> {
  const { path, batch, tokens } = servedOf(context);
  await using server = await startServer("server.ts", { path, engine: ourEngine(context, batch), records: true });
  let numSwaps = 0;
  const isOver = (): boolean => numSwaps >= count;
  const swapping = (async () => {
    for (; !isOver(); numSwaps++) await server.call("swap");
  })();
  const loads = [true, false].map((stream) =>
    closedLoop(Math.ceil(batch / 2), completions(server.url, tokens, stream), isOver),
  );
  const answers = (await Promise.all(loads)).flat();
  await swapping;
  const finished = await server.call("finished");
  const stuck = await stuckGauges(server.url);
  const { numEngines } = await server.memory();

  const enginesOf = ({ id }: Answer): readonly number[] => finished[id] ?? [];
  const isRight = ({ status, isWhole, errorCode, completionTokens, finishReason }: Answer): boolean =>
    status === 200 && isWhole && errorCode === undefined && completionTokens === tokens && finishReason === "length";
  return {
    statuses: countsOf(answers.map(({ status }) => status)),
    numRequests: answers.length,
    numWrong: answers.filter((answer) => !isRight(answer)).length,
    numNotByOne: answers.filter((answer) => enginesOf(answer).length !== 1).length,
    numUnasked: Math.abs(Object.keys(finished).length - answers.length),
    numEngines: new Set(answers.flatMap(enginesOf)).size,
    numLeft: numEngines,
    stuck,
  };
}
