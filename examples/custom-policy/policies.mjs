// @ts-check A scheduler and an eviction policy. They run in the model's process, so the engine gets this module's path,
// not the functions.

import { byPriorityThenArrival, nextChunkTokens } from "@readme-moe/core";

/**
 * Evicts the unit that its layer has not used for the longest time. Among equals, evicts the one whose next use is
 * furthest away: layers run in a circle, so that is the one that has just run.
 * @type {import("@readme-moe/core").EvictionPolicy}
 */
export const longestIdle = (candidates) =>
  candidates.reduce((best, one) => {
    if (one.idleSteps !== best.idleSteps) return one.idleSteps > best.idleSteps ? one : best;
    return one.layersAway > best.layersAway ? one : best;
  });

/**
 * Schedules the first sequence in the queue, and with it the sequences whose next tokens need no other experts.
 * @type {import("@readme-moe/core").Scheduler}
 */
export function followTheFirst({ sequences, limits }) {
  const [leader, ...others] = sequences.toSorted(byPriorityThenArrival);
  if (!leader) return [];
  const experts = new Set(nextExperts(leader, limits));
  let tokensLeft = limits.maxNumBatchedTokens;
  const scheduled = [];
  for (const sequence of [leader, ...others]) {
    const numTokens = nextChunkTokens(sequence, limits.chunkTokens);
    const joins = nextExperts(sequence, limits).every((expert) => experts.has(expert));
    if (!joins || numTokens > tokensLeft || scheduled.length === limits.maxNumBatchedSeqs) continue;
    scheduled.push({ id: sequence.id, numTokens });
    tokensLeft -= numTokens;
  }
  return scheduled;
}

/**
 * @param {import("@readme-moe/core").SchedulableSequence} sequence
 * @param {import("@readme-moe/core").SchedulerLimits} limits
 */
function nextExperts(sequence, limits) {
  return Array.from(sequence.nextExperts).slice(0, nextChunkTokens(sequence, limits.chunkTokens));
}
