// Draws the frontier of models of one family: problems solved and losses against bytes of a token, memory and speed.
//
//   npm run bench:frontier -- --rows rows.json --data a.jsonl b.jsonl [--rounds 3] [--threads 2] [--out X.json]
//     [--picture X.svg]
//
// `rows.json` lists `{ "label", "group", "model", "precision", "lora", "problems" }`: a model, how it is opened, and the
// file of its run of `bench:problems`. Speeds are measured by turns; ratios are to the first row in the same round.
// With --out, losses that are known are not measured again.

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { precisionOf } from "@readme-moe/kernel";
import { openModel, type Precision } from "@readme-moe/model";
import { linePicture, methodColour } from "../packages/refactor/src/report/pictures/line-picture.ts";
import { cliJson } from "./cli-json.ts";
import { markdownTable } from "./kit/report.ts";
import { median, wilsonInterval } from "./kit/statistics.ts";
import { turnsOf } from "./kit/turns.ts";
import { stepCost } from "./limits/step-cost.ts";
import type { Run } from "./problems/results.ts";

interface RowFile {
  readonly label: string;
  /** Rows of one group are one curve of the picture. */
  readonly group: string;
  readonly model: string;
  readonly precision?: Precision | undefined;
  readonly lora?: string | undefined;
  readonly problems?: string | undefined;
}

/** Tokens per second of one request, and of sixteen together. */
interface Speed {
  readonly one: number;
  readonly sixteen: number;
}

interface Row extends RowFile {
  /** Bytes of weights that a token of one request reads. */
  readonly tokenBytes: number;
  readonly weightBytes: number;
  readonly losses: Readonly<Record<string, number>>;
  readonly solved: number | undefined;
  readonly asked: number | undefined;
  readonly speeds: readonly Speed[];
}

const { values } = parseArgs({
  options: {
    rows: { type: "string" },
    data: { type: "string", multiple: true, default: [] },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
    out: { type: "string" },
    picture: { type: "string" },
  },
});
if (values.rows === undefined) throw new TypeError("Expected --rows FILE");
const threads = Number(values.threads);
const given = JSON.parse(await readFile(values.rows, "utf8")) as readonly RowFile[];
const known = values.out === undefined ? [] : await readKnown(values.out);
const speeds = await measureSpeeds();
const rows: Row[] = [];
for (const [index, row] of given.entries()) rows.push(await describeRow(row, speeds[index] ?? []));
if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(rows, undefined, 2)}\n`);
if (values.picture !== undefined) await writeFile(values.picture, await pictureOf(rows));
console.log(`${tableOf(rows)}\n\n${verdictOf(rows)}`);

async function readKnown(path: string): Promise<readonly Row[]> {
  return JSON.parse(await readFile(path, "utf8").catch(() => "[]")) as readonly Row[];
}

async function describeRow(row: RowFile, own: readonly Speed[]): Promise<Row> {
  const model = await openModel(row.model);
  try {
    const precision = row.precision ?? precisionOf(model);
    const { weightBytes: tokenBytes } = stepCost(model, precision, { numSeqs: 1, past: 0, distinct: 1 });
    const numExperts = model.experts.names.length;
    const { weightBytes } = stepCost(model, precision, { numSeqs: numExperts, past: 0, distinct: numExperts });
    const results = row.problems === undefined ? undefined : await resultsOf(row.problems);
    return {
      ...row,
      tokenBytes,
      weightBytes,
      losses: known.find(({ label }) => label === row.label)?.losses ?? (await lossesOf(row)),
      solved: results?.filter(({ isSolved }) => isSolved).length,
      asked: results?.length,
      speeds: own,
    };
  } finally {
    await model.close();
  }
}

async function resultsOf(path: string): Promise<Run["results"][string][]> {
  return Object.values((JSON.parse(await readFile(path, "utf8")) as Run).results);
}

/** Measures the mean loss on each data file. */
async function lossesOf({ model, precision, lora }: RowFile): Promise<Readonly<Record<string, number>>> {
  if (values.data.length === 0) return {};
  const more = [...(precision ? ["--precision", precision] : []), ...(lora === undefined ? [] : ["--lora", lora])];
  const args = ["eval", model, "--data", ...values.data, "--threads", String(threads), ...more];
  const { files } = await cliJson<{ readonly files: Readonly<Record<string, { readonly loss: number }>> }>(args);
  return Object.fromEntries(Object.entries(files).map(([file, { loss }]) => [file, loss]));
}

async function measureSpeeds(): Promise<readonly (readonly Speed[])[]> {
  const all = given.map((): Speed[] => []);
  for (const { variant, round } of turnsOf(given.length, Number(values.rounds))) {
    const { label, model, precision, lora } = given[variant]!;
    const loras = lora === undefined ? undefined : { set: lora };
    await using engine = await ReadMeEngine.open(model, { precision, threads, loras });
    await tokensPerS(engine, 1, 8);
    const speed = { one: await tokensPerS(engine, 1, 96), sixteen: await tokensPerS(engine, 16, 48) };
    all[variant]!.push(speed);
    console.log(`round ${round}, ${label}: ${speed.one.toFixed(1)} and ${speed.sixteen.toFixed(1)} tokens/s`);
  }
  return all;
}

/** Decodes requests side by side. */
async function tokensPerS(engine: ReadMeEngine, requests: number, tokens: number): Promise<number> {
  const times = await Promise.all(
    Array.from({ length: requests }, async (_, index) => {
      const prompt = `// ${index}. A function that adds two numbers.\nfunction add`;
      const arrivals: number[] = [];
      const params = { temperature: 0, maxTokens: tokens, ignoreEos: true };
      for await (const chunk of engine.generate({ prompt, params })) {
        arrivals.push(...chunk.tokens.map(() => performance.now()));
      }
      return arrivals;
    }),
  );
  const all = times.flat().sort((a, b) => a - b);
  const start = Math.max(...times.map(([first = 0]) => first));
  const counted = all.filter((time) => time > start);
  return (1000 * counted.length) / (all.at(-1)! - start);
}

function tableOf(all: readonly Row[]): string {
  const [first] = all;
  const ratioOf = (row: Row, key: keyof Speed): string => {
    const ratios = row.speeds.map((speed, round) => speed[key] / (first?.speeds[round]?.[key] ?? NaN));
    return ratios.length === 0
      ? ""
      : `${median(row.speeds.map((speed) => speed[key])).toFixed(1)} (${median(ratios).toFixed(2)})`;
  };
  return markdownTable({
    title: "Frontier",
    columns: ["model", "MB a token", "MB", "loss", "solved", "95 %", "1 request: tokens/s", "16"],
    rows: all.map((row) => {
      const { low, high } = wilsonInterval(row.solved ?? 0, row.asked ?? 0);
      return [
        row.label,
        (row.tokenBytes / 1e6).toFixed(0),
        (row.weightBytes / 1e6).toFixed(0),
        meanLoss(row)?.toFixed(3) ?? "",
        row.solved === undefined ? "" : `${row.solved} of ${row.asked}`,
        row.solved === undefined ? "" : `${percentOf(low)} to ${percentOf(high)}`,
        ratioOf(row, "one"),
        ratioOf(row, "sixteen"),
      ];
    }),
  });
}

function percentOf(share: number): string {
  return (100 * share).toFixed(0);
}

function meanLoss({ losses }: Row): number | undefined {
  const all = Object.values(losses);
  return all.length === 0 ? undefined : all.reduce((sum, loss) => sum + loss, 0) / all.length;
}

/** Names the row that solves most within each memory: limits are those at which the best row changes. */
function verdictOf(all: readonly Row[]): string {
  const measured = all.filter(({ solved }) => solved !== undefined).toSorted((a, b) => a.weightBytes - b.weightBytes);
  const best: Row[] = [];
  for (const row of measured) if ((best.at(-1)?.solved ?? -1) < row.solved!) best.push(row);
  const parts = best.map((row) => `from ${(row.weightBytes / 1e6).toFixed(0)} MB on ${row.label}`);
  if (parts.length === 0) return "No row has a run of problems.";
  return `Most problems within a memory for weights: ${parts.join(", ")}.`;
}

function pictureOf(all: readonly Row[]): Promise<string> {
  const groups = [...new Set(all.map(({ group }) => group))];
  const panel = (title: string, valueOf: (row: Row) => number | undefined) => ({
    title,
    curves: groups.flatMap((name, place) => {
      const points = all
        .flatMap((row): (readonly [number, number])[] => {
          const value = row.group === name ? valueOf(row) : undefined;
          return value === undefined ? [] : [[row.tokenBytes / 1e6, value]];
        })
        .sort(([a], [b]) => a - b);
      return points.length === 0 ? [] : [{ name, colour: methodColour(name, place), points }];
    }),
  });
  return linePicture({
    title: "Quality and bytes that a token reads",
    description: all.map(({ label }) => label).join(", "),
    xTitle: "weights read for a token of one request, MB",
    rows: [
      {
        panels: [
          panel("problems solved, %", ({ solved, asked = 1 }) =>
            solved === undefined ? undefined : (100 * solved) / asked,
          ),
        ],
      },
      { panels: [panel("loss on held-out text, nats", meanLoss)] },
    ],
  });
}
