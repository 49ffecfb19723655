import { defineConfig } from "vitest/config";

// Tests read the packages' TypeScript sources, so that nothing has to be built before them.
const conditions = ["@readme-moe/source"];

// `--mode built`: commands run as they were just built.
export default defineConfig(({ mode }) => ({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ["test/**/*.test.ts"],
    reporters: ["default", "./test/support/summary-reporter.ts"],
    pool: "forks",
    // Workers that tests start run from the sources, too.
    execArgv: ["--conditions=@readme-moe/source", "--import", "tsx"],
    // Graphs that tests build; keyed by content, so a stale one is never used.
    env: {
      README_MOE_CACHE: "node_modules/.cache/readme-moe-test",
      ...(mode === "built" ? { README_MOE_TEST_BUILT: "1" } : {}),
    },
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
}));
