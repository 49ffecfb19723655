// The lengths and heads of the queues, and the time of the server, which all machines share.

import type { QueueState } from "@readme-moe/core";
import { sharesOf } from "../affinity.ts";
import { expertTokensSchema } from "../job.ts";
import { PREFIX } from "../keys.ts";
import type { ScriptedRedis } from "../log/scripts.ts";

/** Queues with jobs, at a time of the server. */
export interface PeekedQueues {
  readonly nowMs: number;
  readonly queues: readonly QueueState[];
}

/** Queues to look at. */
export interface PeekedKeys {
  readonly modelVersion: string;
  readonly affinities: readonly string[];
  /** Keys of the waiting jobs of each queue: a list and a set of priorities. */
  readonly waitingKeys: readonly string[];
}

/** Reads which queues have jobs, and what their heads need. */
export async function peekQueues(
  redis: ScriptedRedis,
  { modelVersion, affinities, waitingKeys }: PeekedKeys,
): Promise<PeekedQueues> {
  const reply = await redis.fleetPeek(waitingKeys.length, ...waitingKeys, `${PREFIX}:{`, "}:meta");
  const [nowMs, heads] = reply as [number, (readonly [number, string, string, string, string, string])[]];
  const queues = heads.flatMap(([waiting, queued, prompt, more, deadline, experts], index): QueueState[] => {
    const key = affinities[index] ?? "";
    if (waiting === 0) return [];
    const head = {
      queuedMs: numberOr(queued, nowMs),
      promptTokens: numberOr(prompt, 0),
      expertShares: readShares(experts),
      maxNewTokens: numberOr(more, 0),
      deadlineMs: deadline === "" ? undefined : numberOr(deadline, nowMs),
    };
    return [{ id: key, modelVersion, key, priority: 0, waiting, head }];
  });
  return { nowMs, queues };
}

function numberOr(text: string, otherwise: number): number {
  const value = Number(text);
  return text !== "" && Number.isFinite(value) && value >= 0 ? value : otherwise;
}

/** Reads counts of tokens by expert; nothing where there are none, or what no front writes. */
function readShares(text: string): readonly number[] | undefined {
  if (text === "") return undefined;
  try {
    return sharesOf(expertTokensSchema.safeParse(JSON.parse(text)).data);
  } catch {
    return undefined;
  }
}
