// Compares our engine, without and with speculation, with node-llama-cpp and its own predictors: the same GGUF file, the
// same prompts as tokens, greedy, by turns in one process. The peers are installed into bench/peers on first use.
//
//   pnpm bench:speculation:llama -- <model.gguf> [--draft SMALL.gguf] [--kinds quote,chat] [--requests 1] [--rounds 5]
//     [--tokens 96] [--per-kind 16] [--data FOLDER] [--threads N] [--precision int8] [--out FILE.json]

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { installPeers } from "../engine/install-peers.ts";
import { LIBRARIES, peerVersions } from "../engine/peers.ts";
import { describeMachine } from "../kit/machine.ts";
import { formatNumber, markdownTable } from "../kit/report.ts";
import { turnsOf } from "../kit/turns.ts";
import { answerOf } from "./answer.ts";
import { readOddDocuments } from "./documents.ts";
import { openEngines } from "./engines.ts";
import { openLlama } from "./llama-cpp.ts";
import { batchesOf, batchTimes, checkAnswer, type BatchTimes } from "./measure.ts";
import { speculationOptions } from "./options.ts";
import { type PlannedRequest, planRequests } from "./plan.ts";
import { type Spread, spreadOf, spreadText } from "./report.ts";
import type { Kind } from "./request.ts";
import { requestsOf } from "./requests.ts";

/** One engine with one kind of drafts. */
interface Contender {
  readonly name: string;
  readonly answers: (requests: readonly PlannedRequest[]) => Promise<readonly TimedAnswer[]>;
}

interface TimedAnswer {
  readonly tokenIds: readonly number[];
  readonly startMs: number;
  readonly tokenMs: readonly number[];
  readonly acceptedDraftTokens?: number;
}

interface Row {
  readonly kind: Kind;
  readonly requests: number;
  readonly contender: string;
  readonly tokensPerSecond: Spread;
  /** Speed relative to the same engine without drafts. */
  readonly ratio: Spread;
  readonly acceptedPerToken: number | undefined;
}

const PLAIN = ["readme-moe", "node-llama-cpp"] as const;
const noGrammar = (): undefined => undefined;

const options = speculationOptions(["--kinds", "quote,chat", "--requests", "1", ...process.argv.slice(2)]);
const documents = await readOddDocuments(options.data);
await installPeers(join(import.meta.dirname, "..", "peers"), say);
await using opened = await openEngines(options.model, "all", { ...options, draft: undefined });
const { without, with: speculating } = opened;
const rows: Row[] = [];
for (const kind of options.kinds.filter((name) => name === "quote" || name === "chat")) {
  const facts = { documents, vocabSize: without.info.vocabSize, seed: options.seed };
  const greedy = requestsOf(kind, facts).filter(({ params }) => params.temperature === 0);
  const { perKind: count, tokens, threads, model, draft } = options;
  const { requests } = await planRequests(without, greedy, { count, tokens, processorOf: noGrammar });
  const contextTokens = Math.max(...requests.map(({ promptIds }) => promptIds.length)) + tokens;
  const sequences = Math.max(...options.requests);
  await using llama = await openLlama({ library: LIBRARIES.llamaCpp, model, draft, threads, sequences, contextTokens });
  const contenders: readonly Contender[] = [
    { name: "readme-moe", answers: (batch) => ownAnswers(without, batch) },
    { name: "readme-moe, speculation", answers: (batch) => ownAnswers(speculating, batch) },
    ...llama.contenders.map(({ drafts, answers }) => ({
      name: drafts === "none" ? "node-llama-cpp" : `node-llama-cpp, ${drafts}`,
      answers,
    })),
  ];
  for (const atOnce of options.requests) {
    say(`${kind}, ${atOnce} at once`);
    rows.push(...(await compare({ kind, contenders, batches: batchesOf(requests, atOnce), atOnce })));
  }
}
const table = markdownTable({
  title: "Beside node-llama-cpp",
  columns: ["", "at once", "", "tok/s", "ratio to itself without drafts", "accepted"],
  rows: rows.map(({ kind, requests, contender, tokensPerSecond, ratio, acceptedPerToken }) => [
    kind,
    String(requests),
    contender,
    spreadText(tokensPerSecond, 0),
    spreadText(ratio, 3),
    acceptedPerToken === undefined ? "" : formatNumber(acceptedPerToken, 2),
  ]),
  notes: ["Medians and ranges over rounds. Accepted draft tokens are for each token of the answers."],
});
console.log(table);
if (options.out !== undefined) {
  const { "node-llama-cpp": version = "unknown" } = peerVersions();
  const report = { machine: describeMachine({ "node-llama-cpp": version }), options, rows };
  await writeFile(options.out, `${JSON.stringify(report, undefined, 2)}\n`);
}

async function ownAnswers(engine: typeof without, batch: readonly PlannedRequest[]): Promise<readonly TimedAnswer[]> {
  const answers = await Promise.all(batch.map((request) => answerOf(engine, request, noGrammar)));
  for (const [index, answer] of answers.entries()) checkAnswer(batch[index] as PlannedRequest, answer);
  return answers;
}

interface Comparison {
  readonly kind: Kind;
  readonly contenders: readonly Contender[];
  readonly batches: readonly (readonly PlannedRequest[])[];
  readonly atOnce: number;
}

/** Measures all contenders by turns, each batch within seconds, after a turn of each that is not counted. */
async function compare({ kind, contenders, batches, atOnce }: Comparison): Promise<readonly Row[]> {
  const times = contenders.map(() => Array.from({ length: options.rounds }, (): BatchTimes[] => []));
  const accepted = contenders.map(() => 0);
  for (const batch of batches) {
    for (const { answers } of contenders) await answers(batch);
    // Only whole rounds count: the turn that `turnsOf` adds at the end shows drift in other suites.
    const turns = turnsOf(contenders.length, options.rounds).filter(({ round }) => round < options.rounds);
    for (const { variant, round } of turns) {
      const answers = await (contenders[variant] as Contender).answers(batch);
      times[variant]?.[round]?.push(batchTimes(answers));
      for (const { acceptedDraftTokens = 0 } of answers)
        accepted[variant] = (accepted[variant] ?? 0) + acceptedDraftTokens;
    }
  }
  const speeds = times.map((rounds) => rounds.map(speedOf));
  return contenders.map(({ name }, index): Row => {
    const own = speeds[index] ?? [];
    const plain =
      speeds[contenders.findIndex((one) => one.name === PLAIN.find((start) => name.startsWith(start)))] ?? [];
    const numTokens = (times[index] ?? []).flat().reduce((sum, { tokens }) => sum + tokens, 0);
    return {
      kind,
      requests: atOnce,
      contender: name,
      tokensPerSecond: spreadOf(own),
      ratio: spreadOf(own.map((speed, round) => speed / (plain[round] ?? NaN))),
      acceptedPerToken: name.startsWith("node") ? (accepted[index] ?? 0) / numTokens : undefined,
    };
  });
}

/** Computes tokens per second after the prompts. */
function speedOf(batches: readonly BatchTimes[]): number {
  const [tokens, ms] = batches.reduce(
    ([sumTokens, sumMs], { decodeTokens, decodeMs }) => [sumTokens + decodeTokens, sumMs + decodeMs],
    [0, 0],
  );
  return (1000 * tokens) / ms;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
