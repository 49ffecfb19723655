// Measures the middleware under load over real HTTP: overload, cancelled requests, swapped models, and the delay of its
// event loop.

import { namesOf, type Suite, type SuiteContext, type SuiteReport } from "../kit/suite.ts";
import { cancelled } from "./parts/cancelled.ts";
import { loop } from "./parts/loop.ts";
import { overload } from "./parts/overload.ts";
import { swap } from "./parts/swap.ts";

const PARTS: Readonly<Record<string, (context: SuiteContext) => Promise<SuiteReport>>> = {
  overload,
  loop,
  cancelled,
  swap,
};

export const expressSuite: Suite = {
  name: "express",
  summary: "the middleware under overload, cancelled requests and swaps, and the delay of its event loop",
  async run(context) {
    const { settings } = context;
    const reports: SuiteReport[] = [];
    for (const name of namesOf(settings, "parts", Object.keys(PARTS))) {
      const part = PARTS[name];
      if (!part)
        throw new RangeError(`Expected \`--set parts\` to be of ${Object.keys(PARTS).join()}, got \`${name}\``);
      reports.push(await part(context));
    }
    return {
      tables: reports.flatMap(({ tables }) => tables),
      targets: settings.quick ? [] : reports.flatMap(({ targets = [] }) => targets),
      samples: reports.flatMap(({ samples }) => samples),
      notes: ["The client shares the server's cores.", ...reports.flatMap(({ notes = [] }) => notes)],
    };
  },
};
