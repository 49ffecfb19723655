import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { builtWorkers } from "./vitest.config.ts";

// Stryker copies the project to a sandbox. The links of packages lead out of it, so packages are resolved by path.
const packages = join(import.meta.dirname, "packages");
const SOURCE = "@readme-moe/source";
const conditions = [SOURCE];

/** Lists the entries of a package, such as `@readme-moe/engine/evaluation`, with the paths of their sources. */
function entriesOf(folder: string) {
  const text = readFileSync(join(packages, folder, "package.json"), "utf8");
  const { name, exports } = JSON.parse(text) as {
    readonly name: string;
    readonly exports: Readonly<Record<string, { readonly [SOURCE]: string }>>;
  };
  return Object.entries(exports).map(([entry, { [SOURCE]: source }]) => ({
    find: new RegExp(`^${name}${entry.slice(1)}$`),
    replacement: join(packages, folder, source),
  }));
}

export default defineConfig({
  plugins: [builtWorkers],
  resolve: {
    conditions,
    alias: readdirSync(packages).flatMap(entriesOf),
  },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    setupFiles: ["test/support/set-up.ts"],
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
