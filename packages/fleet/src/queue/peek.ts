// The lengths and next jobs of the queues, and the time of the server, which all machines share.

import type { QueueHead, QueueState } from "@readme-moe/core";
import { sharesOf } from "../affinity.ts";
import { expertTokensSchema } from "../job.ts";
import { PREFIX } from "../keys.ts";
import type { ScriptedRedis } from "../log/scripts.ts";

/** A job that waits. */
export interface PeekedJob extends QueueHead {
  /** Number of its choices. */
  readonly numSeqs: number;
}

/** A queue with at least one job. */
export interface PeekedQueue extends QueueState {
  /** The jobs that leave next, the first of which is the head. */
  readonly next: readonly PeekedJob[];
}

/** Queues with jobs, at a time of the server. */
export interface PeekedQueues {
  readonly nowMs: number;
  readonly queues: readonly PeekedQueue[];
}

/** Queues to look at. */
export interface PeekedKeys {
  readonly modelVersion: string;
  readonly affinities: readonly string[];
  /** Keys of the waiting jobs of each queue: a list and a set of priorities. */
  readonly waitingKeys: readonly string[];
  /** Largest number of jobs of a queue that are shown. @default 1 */
  readonly mostJobs?: number | undefined;
}

type Shown = readonly [queued: string, prompt: string, more: string, deadline: string, experts: string, n: string];

/** Reads which queues have jobs, and what the next ones need. */
export async function peekQueues(
  redis: ScriptedRedis,
  { modelVersion, affinities, waitingKeys, mostJobs = 1 }: PeekedKeys,
): Promise<PeekedQueues> {
  const reply = await redis.fleetPeek(waitingKeys.length, ...waitingKeys, `${PREFIX}:{`, "}:meta", mostJobs);
  const [nowMs, found] = reply as [number, (readonly [number, ...Shown[]])[]];
  const queues = found.flatMap(([waiting, ...shown], index): PeekedQueue[] => {
    const key = affinities[index] ?? "";
    const next = shown.map((one) => jobOf(one, nowMs));
    const [head] = next;
    return head ? [{ id: key, modelVersion, key, priority: 0, waiting, head, next }] : [];
  });
  return { nowMs, queues };
}

function jobOf([queued, prompt, more, deadline, experts, choices]: Shown, nowMs: number): PeekedJob {
  return {
    queuedMs: numberOr(queued, nowMs),
    promptTokens: numberOr(prompt, 0),
    expertShares: readShares(experts),
    maxNewTokens: numberOr(more, 0),
    deadlineMs: deadline === "" ? undefined : numberOr(deadline, nowMs),
    numSeqs: numberOr(choices, 1),
  };
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
