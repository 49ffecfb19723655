// Repeats the paper's tables and figures with our system: the paper's number, ours, and the reasons for differences.

import { join } from "node:path";
import { openModel, writeFileAtomically } from "@readme-moe/model";
import type { Suite } from "../kit/suite.ts";
import { reportOf } from "../refactor-report.ts";
import { hitRatiosTable, simulateHits } from "./hit-ratios.ts";
import { equalSizeTable } from "./losses.ts";
import { measurePrefetch, prefetchTable } from "./prefetching.ts";
import { measureBatches, measureOneRequest, oneRequestTable, parametersTable, routerTable } from "./router-share.ts";
import { loadOf, localityTable, measureSchedulers, recordedTrace, schedulersTable } from "./schedulers.ts";

export const paperSuite: Suite = {
  name: "paper",
  summary: "the paper's tables and figures, repeated with this system",
  async run(context) {
    const { settings, folder, keep, say } = context;
    const numExperts = await numExpertsOf(settings.model);
    if (numExperts < 3)
      throw new RangeError(`Expected <model> to be a mixture of at least three experts, got ${settings.model}`);
    const load = loadOf(context);
    const schedulers = await measureSchedulers(context, load);
    say("recording a trace");
    const lines = await keep("trace", () => recordedTrace(context, load));
    const trace = join(folder, "trace.jsonl");
    await writeFileAtomically(trace, lines);
    const hits = await keep("hit ratios", () => simulateHits(trace, numExperts));
    const prefetch = await measurePrefetch(context, numExperts);
    const batches = await measureBatches(context, numExperts);
    const oneRequest = await measureOneRequest(context, numExperts);
    const report = await reportOf(settings.model);
    return {
      tables: [
        schedulersTable(schedulers),
        hitRatiosTable(hits),
        localityTable(lines),
        prefetchTable(prefetch),
        oneRequestTable(oneRequest, batches),
        routerTable(batches),
        parametersTable(report?.size),
        ...(report ? [equalSizeTable(report)] : []),
      ],
      samples: [...schedulers, ...prefetch],
      notes: [
        `Requests: ${load.numRequests} of ${load.paths.join(", ")}, ${load.batch} in a step, ${load.batch * load.times} concurrent; the trace is in trace.jsonl.`,
        ...(report ? [] : [`${settings.model} has no report.json, so sizes and table 5 are missing.`]),
        "Not repeated: tables 3 and 6 and figure 4 (benchmarks of 7B models), figure 2 and 3 (Mixtral), table 7 (not credible: fewer operations than the router has parameters).",
      ],
    };
  },
};

async function numExpertsOf(path: string): Promise<number> {
  const model = await openModel(path);
  const { length } = model.experts.names;
  await model.close();
  return length;
}
