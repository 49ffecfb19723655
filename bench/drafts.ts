// Counts how often drafts from texts and from recycled candidates are right, by class of evidence, and predicts what
// they save from the cost of rows. Answers are generated once and kept in a file; drafting is replayed over it.
//
//   npm run bench:drafts -- <model> --data <folder of <domain>.jsonl> [--per-kind 49] [--max-tokens 192]
//     [--answers bench-results/answers.jsonl] [--fixed-ms 3.4] [--row-ms 0.5] [--classes]

import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import type { CostModel } from "@readme-moe/core";
import { recordAnswers, type RecordedAnswer } from "./drafts/record.ts";
import { replay } from "./drafts/replay.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", default: "domains" },
    "per-kind": { type: "string", default: "49" },
    "max-tokens": { type: "string", default: "192" },
    answers: { type: "string", default: "bench-results/answers.jsonl" },
    "fixed-ms": { type: "string", default: "3.4" },
    "row-ms": { type: "string", default: "0.5" },
    classes: { type: "boolean", default: false },
  },
});
const [model = "models/pocket"] = positionals;
const path = values.answers;
const cost: CostModel = {
  fixedMs: Number(values["fixed-ms"]),
  msPerToken: Number(values["row-ms"]),
  msPerExpert: 0,
  msPerCachedToken: 0,
  loadMsPerByte: 0,
};

if (!existsSync(path)) {
  await mkdir(dirname(path), { recursive: true });
  const [perKind, maxTokens] = [Number(values["per-kind"]), Number(values["max-tokens"])];
  await recordAnswers({ model, data: values.data, perKind, maxTokens, path });
}
const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
const answers = lines.map((line) => JSON.parse(line) as RecordedAnswer);

console.log("kind        temperature  requests  sources           speed-up  accepted / drafted of tokens");
for (const temperature of new Set(answers.map((one) => one.temperature))) {
  for (const kind of ["summary", "extraction", "chat", "all"]) {
    const some = answers.filter((one) => one.temperature === temperature && (kind === "all" || one.kind === kind));
    report(kind, temperature, some);
  }
}

function report(kind: string, temperature: number, some: readonly RecordedAnswer[]): void {
  const runs = [
    { requests: 1, sources: ["context"] },
    { requests: 1, sources: ["recycled"] },
    ...[1, 4, 16].map((requests) => ({ requests, sources: ["context", "recycled"] as const })),
  ] as const;
  for (const { requests, sources } of runs) {
    const result = replay(some, { requests, sources, cost, mostTokens: 12 });
    const { speedUp, acceptedTokens, draftTokens, tokens } = result;
    console.log(
      kind.padEnd(11),
      String(temperature).padEnd(12),
      String(requests).padEnd(9),
      sources.join(" + ").padEnd(18),
      speedUp.toFixed(3).padEnd(9),
      `${acceptedTokens} / ${draftTokens} of ${tokens}`,
    );
    if (!values.classes || sources.length < 2 || requests > 1) continue;
    const byName = Array.from(result.classes).toSorted(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
    for (const [name, { tried, accepted }] of byName) {
      console.log(`  ${name.padEnd(14)} ${accepted} of ${tried} = ${(accepted / tried).toFixed(2)}`);
    }
  }
}
