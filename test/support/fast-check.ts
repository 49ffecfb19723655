// fast-check with one seed for all properties that name none, so that a run can be repeated: `README_MOE_SEED=7 npx vitest run …` tries
// another one. A failing property prints its seed and its path. A list has at most ten items, even where its `maxLength` is larger;
// `size: "max"` lifts this limit.

import * as fastCheck from "fast-check";

const { configureGlobal, readConfigureGlobal } = fastCheck;
const seed = Number(process.env["README_MOE_SEED"] ?? 1);
/** Upper bound on the runs of every property; mutation testing sets it, since it repeats each property hundreds of times. */
const maxRuns = Number(process.env["README_MOE_MAX_RUNS"] ?? Infinity);
configureGlobal({ ...readConfigureGlobal(), seed });

export * from "fast-check";

const boundedAssert = (property: never, params: fastCheck.Parameters = {}): Promise<void> | void =>
  fastCheck.assert(property, { ...params, numRuns: Math.min(maxRuns, params.numRuns ?? 100) });

export const assert = boundedAssert as typeof fastCheck.assert;
