// The middleware under load, over real HTTP: too many requests, clients that leave, models that are exchanged; and how free
// its event loop stays.

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
  summary: "the middleware under too many requests, cancelled ones and swaps, and how free its event loop stays",
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
      notes: ["The client has its share of the same cores.", ...reports.flatMap(({ notes = [] }) => notes)],
    };
  },
};
