import { defineConfig } from "vitest/config";
import common from "./vitest.config.ts";

// Tests of a fleet in full: a thousand answers under faults, fifty failovers of Valkey, twenty minutes in which it freezes
// again and again, and two thousand hostile jobs.
export default defineConfig((env) => {
  const base = common(env);
  const {
    README_MOE_FLEET_REQUESTS = "1000",
    README_MOE_FLEET_FAILOVERS = "50",
    README_MOE_FLEET_HOSTILE_JOBS = "2000",
    README_MOE_FLEET_FREEZE_SECONDS = "1200",
    README_MOE_FLEET_MODEL = "models/pocket",
  } = process.env;
  const long = {
    README_MOE_FLEET_REQUESTS,
    README_MOE_FLEET_FAILOVERS,
    README_MOE_FLEET_HOSTILE_JOBS,
    README_MOE_FLEET_FREEZE_SECONDS,
    README_MOE_FLEET_MODEL,
  };
  return {
    ...base,
    test: { ...base.test, projects: undefined, include: ["test/fleet/*.test.ts"], env: { ...base.test.env, ...long } },
  };
});
