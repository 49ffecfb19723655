import { readdirSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { builtWorkers } from "./vitest.config.ts";

// Stryker copies the project to a sandbox. The links of packages lead out of it, so packages are resolved by path.
const packages = join(import.meta.dirname, "packages");
const conditions = ["@readme-moe/source"];

export default defineConfig({
  plugins: [builtWorkers],
  resolve: {
    conditions,
    alias: readdirSync(packages)
      .filter((name) => name !== "readme-moe" && name !== "adapter")
      .map((name) => ({ find: `@readme-moe/${name}`, replacement: join(packages, name, "src", "index.ts") })),
  },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: (process.env["README_MOE_MUTATION_TESTS"] ?? "").split("\n"),
    // A global variable activates a mutant, so modules need not be loaded again for each of them.
    isolate: false,
    env: {
      README_MOE_CACHE: "node_modules/.cache/readme-moe-test",
      README_MOE_TEST_BUILT: "1",
      README_MOE_MAX_RUNS: "25",
    },
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
