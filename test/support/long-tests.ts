/**
 * Whether tests of real weights run in full, as `npm run test:long` does, and not on a part of their requests and
 * texts.
 */
export const RUNS_LONG_TESTS = process.env["README_MOE_LONG_TESTS"] !== undefined;
