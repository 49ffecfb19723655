// Everything that these tests use of the sampling folder.

export { logSumExpBlock, type LogitsRow } from "../../../packages/core/src/sampling/logits-row.ts";
export { tokenLogprobs } from "../../../packages/core/src/sampling/logprobs.ts";
export { applyPenalties } from "../../../packages/core/src/sampling/penalties.ts";
export { candidatesNeeded, needsFullLogits } from "../../../packages/core/src/sampling/row-needs.ts";
export { sampleToken } from "../../../packages/core/src/sampling/sample.ts";
export { resolveSamplingParams, type SamplingParams } from "../../../packages/core/src/sampling/sampling-params.ts";
export { StopAutomaton } from "../../../packages/core/src/sampling/stop-automaton.ts";
export { StopMatcher } from "../../../packages/core/src/sampling/stop-strings.ts";
export { rankedCandidates } from "../../../packages/core/src/sampling/ranked-logits.ts";
export { boundTotal } from "../../../packages/core/src/sampling/total-weight.ts";
export { TokenCounts } from "../../../packages/core/src/sampling/token-counts.ts";
export { philox4x32, uniformAt } from "../../../packages/core/src/sampling/uniform.ts";
