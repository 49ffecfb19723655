// Compares our engine, without and with speculation, with node-llama-cpp and its own predictors: the same GGUF file, the
// same prompts as tokens, greedy, by turns in one process. The peers are installed into bench/peers on first use.
//
//   pnpm bench:speculation:llama <model.gguf> [--draft SMALL.gguf] [--kinds quote,chat] [--requests 1] [--rounds 5]
//     [--tokens 96] [--per-kind 16] [--data FOLDER] [--threads N] [--precision int8] [--out FILE.json]

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Engine } from "@readme-moe/core";
import { installPeers } from "../engine/install-peers.ts";
import { LIBRARIES, peerVersions } from "../engine/peers.ts";
import { describeMachine } from "../kit/machine.ts";
import { formatNumber, markdownTable } from "../kit/report.ts";
import { distinct } from "../kit/samples.ts";
import { answerOf } from "./answer.ts";
import { readOddDocuments } from "./documents.ts";
import { type Engines, openEngines } from "./engines.ts";
import { type LlamaContenders, openLlama } from "./llama-cpp.ts";
import { batchesOf, batchTimes, checkAnswer, warmUp } from "./measure.ts";
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

/** Answers of one contender to one batch. */
interface Measured {
  readonly name: string;
  readonly round: number;
  readonly answers: readonly TimedAnswer[];
}

interface Row {
  readonly kind: Kind;
  readonly requests: number;
  readonly contender: string;
  readonly tokensPerSecond: Spread;
  /** Speed relative to the same engine without drafts. */
  readonly ratio: Spread;
  /** NaN for ours, whose own benchmark reports it. */
  readonly acceptedPerToken: number;
}

const PLAIN = ["readme-moe", "node-llama-cpp"] as const;
const noGrammar = (): undefined => undefined;

const options = speculationOptions(["--kinds", "quote,chat", "--requests", "1", ...process.argv.slice(2)]);
const documents = await readOddDocuments(options.data);
await installPeers(join(import.meta.dirname, "..", "peers"), say);
const rows: Row[] = [];
for (const kind of options.kinds.filter((name) => name === "quote" || name === "chat")) {
  const requests = await greedyRequests(kind);
  const contextTokens = Math.max(...requests.map(({ promptIds }) => promptIds.length)) + options.tokens;
  const sequences = Math.max(...options.requests);
  const { model, draft, threads } = options;
  await using llama = await openLlama({ library: LIBRARIES.llamaCpp, model, draft, threads, sequences, contextTokens });
  for (const atOnce of options.requests) {
    say(`${kind}, ${atOnce} at once`);
    rows.push(...(await compare({ kind, llama, batches: batchesOf(requests, atOnce), atOnce })));
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
    formatNumber(acceptedPerToken, 2),
  ]),
  notes: ["Medians and ranges over rounds. Accepted draft tokens are for each token of the answers."],
});
console.log(table);
if (options.out !== undefined) {
  const { "node-llama-cpp": version = "unknown" } = peerVersions();
  const report = { machine: describeMachine({ "node-llama-cpp": version }), options, rows };
  await writeFile(options.out, `${JSON.stringify(report, undefined, 2)}\n`);
}

function openOwn(): Promise<Engines> {
  return openEngines(options.model, "all", options);
}

async function greedyRequests(kind: Kind): Promise<readonly PlannedRequest[]> {
  await using planning = await openOwn();
  const { without } = planning;
  const facts = { documents, vocabSize: without.info.vocabSize, seed: options.seed };
  const greedy = requestsOf(kind, facts).filter(({ params }) => params.temperature === 0);
  const { perKind: count, tokens } = options;
  const { requests } = await planRequests(without, greedy, { count, tokens, processorOf: noGrammar });
  return requests;
}

async function ownAnswers(engine: Engine, batch: readonly PlannedRequest[]): Promise<readonly TimedAnswer[]> {
  const answers = await Promise.all(batch.map((request) => answerOf(engine, request, noGrammar)));
  for (const [index, answer] of answers.entries()) checkAnswer(batch[index] as PlannedRequest, answer);
  return answers;
}

interface Comparison {
  readonly kind: Kind;
  readonly llama: LlamaContenders;
  readonly batches: readonly (readonly PlannedRequest[])[];
  readonly atOnce: number;
}

/** Measures all contenders by turns, each batch within seconds. Engines of ours are new in each round. */
async function compare({ kind, llama, batches, atOnce }: Comparison): Promise<readonly Row[]> {
  const measured: Measured[] = [];
  for (let round = 0; round < options.rounds; round++) {
    await using opened = await openOwn();
    const { without, with: speculating } = opened;
    for (const engine of [without, speculating]) await warmUp(engine);
    const contenders: readonly Contender[] = [
      { name: "readme-moe", answers: (batch) => ownAnswers(without, batch) },
      { name: "readme-moe, speculation", answers: (batch) => ownAnswers(speculating, batch) },
      ...llama.contenders.map(({ drafts, answers }) => ({
        name: drafts === "none" ? "node-llama-cpp" : `node-llama-cpp, ${drafts}`,
        answers,
      })),
    ];
    for (const [index, batch] of batches.entries()) {
      for (const { name, answers } of (round + index) % 2 === 0 ? contenders : contenders.toReversed()) {
        measured.push({ name, round, answers: await answers(batch) });
      }
    }
  }
  return rowsOf(measured, { kind, requests: atOnce });
}

function rowsOf(measured: readonly Measured[], of: Pick<Row, "kind" | "requests">): readonly Row[] {
  const speedOf = (contender: string, round: number): number =>
    speed(measured.filter(({ name }) => name === contender).filter((one) => one.round === round));
  const rounds = distinct(measured.map(({ round }) => round));
  return distinct(measured.map(({ name }) => name)).map((contender): Row => {
    const plain = PLAIN.find((start) => contender.startsWith(start)) ?? contender;
    const answers = measured.filter(({ name }) => name === contender).flatMap((one) => one.answers);
    const numTokens = answers.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const accepted = answers.reduce((sum, { acceptedDraftTokens = NaN }) => sum + acceptedDraftTokens, 0);
    return {
      ...of,
      contender,
      tokensPerSecond: spreadOf(rounds.map((round) => speedOf(contender, round))),
      ratio: spreadOf(rounds.map((round) => speedOf(contender, round) / speedOf(plain, round))),
      acceptedPerToken: accepted / numTokens,
    };
  });
}

/** Computes tokens per second after the prompts. */
function speed(batches: readonly Measured[]): number {
  const times = batches.map(({ answers }) => batchTimes(answers));
  const tokens = times.reduce((sum, { decodeTokens }) => sum + decodeTokens, 0);
  return (1000 * tokens) / times.reduce((sum, { decodeMs }) => sum + decodeMs, 0);
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
