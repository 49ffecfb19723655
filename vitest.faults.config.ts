import { defineConfig } from "vitest/config";
import common from "./vitest.config.ts";

// Faults of a running server that take long to show: seconds each.
export default defineConfig((env) => {
  const base = common(env);
  return { ...base, test: { ...base.test, projects: undefined, include: ["test/faults/*.faults.ts"] } };
});
