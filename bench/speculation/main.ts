// Measures speculation: the same requests on two engines of one model, without and with it, by turns in one process.
// Every answer has to be the same token for token; a difference ends the run with exit code 1.
//
//   pnpm bench:speculation [model] [--kinds quote,predicted,json,chat,code,random] [--requests 1,4,16] [--rounds 5]
//     [--tokens 96] [--per-kind 16] [--data FOLDER] [--draft-head FOLDER] [--baseline texts] [--precision int8]
//     [--threads N] [--seed 1] [--out FILE.json] [--show]

import { writeFile } from "node:fs/promises";
import { modelPath } from "../../packages/readme-moe/src/models.ts";
import { describeMachine, machineMarkdown } from "../kit/machine.ts";
import { markdownTable } from "../kit/report.ts";
import { openSchemaGrammars } from "./answer.ts";
import { readOddDocuments } from "./documents.ts";
import { type Memory, memoriesOf, openEngines } from "./engines.ts";
import { AnswerDiffers, measureRounds } from "./measure.ts";
import { speculationOptions } from "./options.ts";
import { type Plan, planRequests } from "./plan.ts";
import { type CellFigures, cellFigures, plansTable, speculationTables } from "./report.ts";
import type { Kind } from "./request.ts";
import { requestsOf } from "./requests.ts";

const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort());
try {
  await main();
} catch (error) {
  process.exitCode = 1;
  const isTold = [TypeError, RangeError, AnswerDiffers].some((kind) => error instanceof kind);
  console.error(isTold && error instanceof Error ? `error: ${error.message}` : error);
}

async function main(): Promise<void> {
  const options = speculationOptions(process.argv.slice(2));
  const path = await modelPath(options.model, interrupt.signal);
  const documents = await readOddDocuments(options.data);
  const machine = describeMachine();
  const cells: CellFigures[] = [];
  const plansByMemory = new Map<Memory, ReadonlyMap<Kind, Plan>>();

  for (const memory of options.show ? (["all"] as const) : await memoriesOf(path)) {
    const open = () => openEngines(path, memory, options);
    await using planning = await open();
    const { without } = planning;
    await using grammars = await openSchemaGrammars(without);
    const { processorOf } = grammars;
    const { vocabSize } = without.info;
    const plans = new Map<Kind, Plan>();
    plansByMemory.set(memory, plans);
    for (const kind of options.kinds) {
      say(`${kind}: choosing requests`);
      const drafted = requestsOf(kind, { documents, vocabSize, seed: options.seed });
      const { perKind: count, tokens } = options;
      plans.set(kind, await planRequests(without, drafted, { count, tokens, processorOf }));
    }
    if (options.show) return show(plans);
    for (const [kind, { requests }] of plans) {
      for (const atOnce of options.requests) {
        say(`${kind}, ${atOnce} at once${memory === "half" ? ", half of the experts" : ""}`);
        const measured = { open, requests, atOnce, rounds: options.rounds, processorOf };
        cells.push(cellFigures({ memory, kind, atOnce, rounds: await measureRounds(measured) }));
      }
    }
  }

  const [plans = new Map<Kind, Plan>()] = plansByMemory.values();
  const tables = speculationTables(plans, cells);
  process.stdout.write(tables);
  if (options.out === undefined) return;
  const requests = Array.from(plansByMemory, ([memory, own]) => ({ memory, plans: plansJson(own) }));
  const report = { machine, options, requests, cells };
  await writeFile(options.out, `${JSON.stringify(report, undefined, 2)}\n`);
  const page = `${options.out.replace(/\.json$/, "")}.md`;
  await writeFile(page, `# Speculation\n\n${machineMarkdown(machine)}\n\n${tables}`);
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Names the requests without their texts. */
function plansJson(plans: ReadonlyMap<Kind, Plan>): object {
  const entries = Array.from(plans, ([kind, plan]) => [
    kind,
    {
      ...plan,
      requests: plan.requests.map(({ name, promptIds, expected, maxTokens }) => ({
        name,
        promptTokens: promptIds.length,
        maxTokens,
        answerTokens: expected.tokenIds.length,
        finishReason: expected.finishReason,
      })),
    },
  ]);
  return Object.fromEntries(entries) as object;
}

/** Prints the answers, and how much of them their prompts foretell. */
function show(plans: ReadonlyMap<Kind, Plan>): void {
  for (const { requests } of plans.values()) {
    for (const { kind, name, prompt, text } of requests) {
      const asked = typeof prompt === "string" ? prompt : JSON.stringify(prompt.at(-1));
      console.log(`--- ${kind}: ${name}\n${asked}\n>>> ${text}\n`);
    }
  }
  console.log(markdownTable(plansTable(plans)));
}
