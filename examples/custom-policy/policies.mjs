// @ts-check
// Decisions of one's own. They run where the model does, so the engine gets their place, not the functions.

import { byPriorityThenArrival, nextChunkTokens } from "@readme-moe/core";

/**
 * What its layer did without for longest goes first; of several, the one whose turn is furthest away: layers are used in a
 * circle, so that is the one that has just run.
 * @type {import("@readme-moe/core").EvictionPolicy}
 */
export const longestIdle = (candidates) =>
  candidates.reduce((best, one) => {
    if (one.idleSteps !== best.idleSteps) return one.idleSteps > best.idleSteps ? one : best;
    return one.layersAway > best.layersAway ? one : best;
  });

/**
 * Who came first leads each step; those join whose next tokens need no expert that is not there already.
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
