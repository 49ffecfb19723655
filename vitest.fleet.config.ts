import { defineConfig } from "vitest/config";
import common from "./vitest.config.ts";

// Tests of a fleet in full: a thousand answers under faults, and fifty failovers of Valkey.
export default defineConfig((env) => {
  const base = common(env);
  const long = { README_MOE_FLEET_REQUESTS: "1000", README_MOE_FLEET_FAILOVERS: "50" };
  return {
    ...base,
    test: { ...base.test, projects: undefined, include: ["test/fleet/*.test.ts"], env: { ...base.test.env, ...long } },
  };
});
