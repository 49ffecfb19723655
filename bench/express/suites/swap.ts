// A model is exchanged for itself again and again while clients ask for as much as can be answered: each request is
// answered, by one engine and no other.

import type { Answer } from "../client.ts";
import { countsOf, verdictOf } from "../figures.ts";
import { stuckGauges } from "../gauges.ts";
import { closedLoop, completions } from "../load.ts";
import { startServer } from "../server-process.ts";
import type { Settings } from "../settings.ts";

export async function swap({ path, batch, tokens, threads, count = 100 }: Settings): Promise<boolean> {
  const engine = { threads, maxNumSeqs: batch };
  await using server = await startServer("server.ts", { path, engine, records: true });
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
  const engines = new Set(answers.flatMap(enginesOf));
  console.log(`${numSwaps} swaps, ${answers.length} requests: ${countsOf(answers.map(({ status }) => status))}`);
  console.log(`${engines.size} engines answered`);
  return [
    verdictOf("each request was answered in full", answers.every(isRight)),
    verdictOf(
      "each by one engine",
      answers.every((answer) => enginesOf(answer).length === 1),
    ),
    verdictOf("no engine answered anything else", Object.keys(finished).length === answers.length),
    verdictOf("one engine is left", numEngines === 1),
    verdictOf(`all gauges are 0${stuck.length > 0 ? `, but ${stuck.join(", ")}` : ""}`, stuck.length === 0),
  ].every(Boolean);
}
