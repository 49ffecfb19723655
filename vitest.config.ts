import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// Tests read the packages' TypeScript sources, so that nothing has to be built before them.
const conditions = ["@readme-moe/source"];

/** Modules that start a worker from a file beside their own. */
const STARTERS = ["packages/engine/src/host/worker-link.ts", "packages/grammar/src/matching/grammar-thread.ts"];
for (const name of STARTERS) {
  if (!existsSync(join(import.meta.dirname, name))) throw new Error(`${name}, which starts workers, has moved`);
}

/** Starts workers from the built files: compiling the sources in each of them takes longer than opening a small model. */
export const builtWorkers: Plugin = {
  name: "built-workers",
  enforce: "pre",
  // Vitest passes the conditions to its processes as Node's flags, and these to the workers, which would load sources.
  configResolved({ ssr }) {
    if (ssr.resolve) ssr.resolve.conditions = [];
  },
  load(id) {
    const starter = STARTERS.find((name) => id === join(import.meta.dirname, name));
    const built = starter?.replace("/src/", "/dist/").replace(/\.ts$/, ".js");
    return built && `export * from ${JSON.stringify(join(import.meta.dirname, built))};`;
  },
};

/** Tests that change what modules keep, or import other tests. */
const IN_OWN_PROCESS = ["test/express/over-fetch.test.ts"];

/**
 * Tests of whole programs, hosts, machines, pages and real models, and of what is killed, cut or full while it works.
 * `npm run test:system` runs them, and `npm test` all others.
 */
const SYSTEM = [
  "test/adapter/{loading,names,onnx}.test.ts",
  "test/bench/{bench-command,file-suite,fuzz-models,speculation}.test.ts",
  "test/chatbot/{killed-server,live,page,page-features,page-trouble}.test.ts",
  "test/docs/code-blocks.test.ts",
  "test/engine/{cache-faults,equality,mapped-file-faults,smollm2,streamed-faults}.test.ts",
  "test/examples/*.test.ts",
  "test/express/api-engine-killed.test.ts",
  "test/fleet/{batches,commands,failover,failures,fleet,freezes,hybrids,refactor,rolling,streamed-experts,tune}.test.ts",
  "test/refactor/load-failure.test.ts",
  "test/readme-moe/{apply,chat,models-by-name,serve*,shipped-adapter,tune}.test.ts",
  "test/refactor/{delta-scales,families,lora-resume,resume,tuning-resume}.test.ts",
];

// `--mode built`: commands, programs and workers run as they were just built.
export default defineConfig(({ mode }) => ({
  plugins: mode === "built" ? [builtWorkers] : [],
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    // A process for each file would load the same modules 400 times. Projects have a mode of their own.
    projects: [
      {
        extends: true,
        mode,
        test: {
          name: "shared",
          isolate: false,
          include: ["test/**/*.test.ts"],
          exclude: [...IN_OWN_PROCESS, ...SYSTEM],
        },
      },
      { extends: true, mode, test: { name: "system", isolate: false, include: SYSTEM } },
      { extends: true, mode, test: { name: "alone", include: IN_OWN_PROCESS } },
    ],
    reporters: ["default", "./test/support/summary-reporter.ts"],
    setupFiles: ["test/support/set-up.ts"],
    pool: "forks",
    // Workers that tests start run from the sources, too, where they are not built.
    execArgv: mode === "built" ? [] : ["--conditions=@readme-moe/source", "--import", "tsx"],
    // Packed weights, keyed by what they are packed from, not by the code that packs them.
    env: {
      README_MOE_CACHE: "node_modules/.cache/readme-moe-test",
      // Servers that tests kill would stay in the user's own list until its next call.
      README_MOE_STATE: "node_modules/.cache/readme-moe-test-state",
      ...(mode === "built" ? { README_MOE_TEST_BUILT: "1" } : {}),
    },
    maxWorkers: 2,
    // Against tests that hang: on a busy machine a test may take ten times as long as alone.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
  },
}));
