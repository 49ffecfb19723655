// fast-check with one seed for all properties that name none, so that a run can be repeated: `README_MOE_SEED=7 npx vitest run …` tries
// another one. What fails prints its seed and its path.

import { configureGlobal, readConfigureGlobal } from "fast-check";

const seed = Number(process.env["README_MOE_SEED"] ?? 1);
configureGlobal({ ...readConfigureGlobal(), seed });

export * from "fast-check";
