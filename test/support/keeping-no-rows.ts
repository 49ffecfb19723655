// A model whose runner keeps no logits of a step: what the best candidates do not decide runs again.

import type { BenchModel } from "./core-bench.ts";

export function keepingNoRows({ router, runner }: BenchModel): BenchModel {
  return {
    router,
    runner: {
      model: runner.model,
      expertNames: runner.expertNames,
      openKv: (options) => runner.openKv(options),
      forward: async (...step) => {
        const results = await runner.forward(...step);
        return results.map((result) => ({ ...result, readRow: undefined }));
      },
      keepsLogits: () => true,
      dispose: () => runner.dispose(),
    },
  };
}
