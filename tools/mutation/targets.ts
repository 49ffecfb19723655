// Names the sources that are mutated, and the tests that have to notice. Mutants are not active in processes that a test starts.

export interface MutationTarget {
  readonly name: string;
  /** Folders and files below `packages/`. */
  readonly sources: readonly string[];
  /** Files and folders of `sources` that are not mutated. */
  readonly except?: readonly string[];
  /** Globs of test files. */
  readonly tests: readonly string[];
}

export const MUTATION_TARGETS: readonly MutationTarget[] = [
  { name: "core", sources: ["core/src"], tests: ["test/core/**/*.test.ts"] },
  { name: "router", sources: ["router/src"], tests: ["test/router/**/*.test.ts"] },
  {
    name: "engine",
    sources: ["engine/src"],
    // The worker runs in a process or thread of its own. A mutant of the host makes requests hang, for minutes each.
    except: ["engine/src/worker", "engine/src/host", "engine/src/experts/loras.ts"],
    tests: [
      "test/engine/{core-accounting,engine-core,kv-admission,kv-sizes,prefix-cache,step-runner,schedulers,time-slices}.test.ts",
      "test/engine/{router-states,rows-away,expert-store,routed-experts,chunked-routes,paged-memory,measure-cost}.test.ts",
      "test/engine/{abort-listeners,generation-stream,listened-events,wire-errors,kernel-runner}.test.ts",
      "test/engine/{calibration,evaluation,multiple-choice,trunks}.test.ts",
      "test/engine/{accept-token,batch,engine-options,import-function,runner-options,streamed,unit-places,weight-sizes}.test.ts",
    ],
  },
  {
    name: "admission",
    sources: ["express/src/edge/admission.ts", "express/src/edge/admission"],
    tests: ["test/express/edge-{admission,admission-policy,admission-random,retry-after,return-times}.test.ts"],
  },
  {
    name: "guard",
    sources: ["express/src/edge/guard.ts"],
    tests: ["test/express/{edge-guard,rate-limits}.test.ts"],
  },
  {
    name: "answers",
    sources: [
      "express/src/api/serve-generation.ts",
      "express/src/api/generation.ts",
      "express/src/api/request-scope.ts",
    ],
    tests: [
      "test/express/{api-stream,api-composition,api-refusals,api-routes,api-routed-admission}.test.ts",
      "test/express/{answer-timings,request-scope,generation,grammar-exchange,scripted-answers,sse-writer}.test.ts",
    ],
  },
  { name: "grammar", sources: ["grammar/src/schema"], tests: ["test/grammar/*.test.ts"] },
  {
    name: "report",
    sources: ["report", "model-card", "verdict"].map((name) => `refactor/src/report/${name}.ts`),
    tests: ["test/refactor/{report,report-model-card}.test.ts"],
  },
  // Most mutants of pictures move lines by some pixels.
  {
    name: "pictures",
    sources: ["refactor/src/report/pictures"],
    tests: ["test/refactor/{report-pictures,line-picture}.test.ts"],
  },
];
