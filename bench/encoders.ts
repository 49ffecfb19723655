// Measures embeddings of an encoder beside transformers.js: calls by turns, and the event loop while 16 callers ask.
//
//   npm run bench:encoders -- --model FOLDER --onnx FOLDER [--rounds 7] [--threads 2] [--tokens 16,128,256]
//     [--texts 1,8,64]
//
// `--model` is the folder that the engine opens, `--onnx` the one that transformers.js opens: `onnx/model.onnx` and
// `onnx/model_quantized.onnx`. Figures are medians over rounds; ratios are of the same round.

import { monitorEventLoopDelay } from "node:perf_hooks";
import { parseArgs } from "node:util";
import * as transformers from "@huggingface/transformers";
import { ReadMeEngine } from "@readme-moe/engine";
import { markdownTable } from "./kit/report.ts";
import { median, percentile } from "./kit/statistics.ts";
import { turnsOf } from "./kit/turns.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    onnx: { type: "string" },
    rounds: { type: "string", default: "7" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "16,128,256" },
    texts: { type: "string", default: "1,8,64" },
  },
});
const { model, onnx } = values;
if (model === undefined || onnx === undefined) throw new TypeError("Expected --model FOLDER and --onnx FOLDER");
const numbers = (list: string): readonly number[] => list.split(",").map(Number);
const threads = Number(values.threads);

/** A way to embeddings, whose calls take texts of a number of tokens each. */
interface Way {
  readonly name: string;
  readonly embed: (texts: readonly string[]) => Promise<unknown>;
  readonly close: () => Promise<unknown>;
}

async function openEngine(precision: "fp32" | "int8"): Promise<Way> {
  const engine = await ReadMeEngine.open(model!, { precision, threads });
  const embed = (inputs: readonly string[]): Promise<unknown> => engine.embed({ inputs });
  return { name: `engine, ${precision}`, embed, close: () => engine.dispose() };
}

async function openHost(dtype: "fp32" | "q8"): Promise<Way> {
  transformers.env.allowRemoteModels = false;
  const session_options = { intraOpNumThreads: threads, interOpNumThreads: 1 };
  const extractor = await transformers.pipeline("feature-extraction", onnx, { dtype, session_options });
  const options = { pooling: "mean", normalize: true } as const;
  const embed = async (texts: readonly string[]): Promise<unknown> => extractor([...texts], options);
  return { name: `transformers.js, ${dtype}`, embed, close: () => extractor.dispose() };
}

/** Words of one token each in vocabularies of BERT. */
const WORDS = ["dog", "house", "green", "paper", "water", "river", "music", "stone", "night", "light"];

/** Makes different texts of `numTokens` tokens, the two around a text included. */
function textsOf(count: number, numTokens: number): readonly string[] {
  return Array.from({ length: count }, (_, text) =>
    Array.from({ length: numTokens - 2 }, (__, word) => WORDS[(text * 7 + word * 3 + ((word * text) % 5)) % 10]).join(
      " ",
    ),
  );
}

const LOOP = ["", "event loop p99: ms", "texts per second", "p99 of a call: ms"];
const ways = [await openEngine("int8"), await openEngine("fp32"), await openHost("q8"), await openHost("fp32")];
const rows: string[][] = [];
for (const numTokens of numbers(values.tokens)) {
  for (const count of numbers(values.texts)) {
    const texts = textsOf(count, numTokens);
    const times = ways.map((): number[] => []);
    for (const way of ways) await way.embed(texts);
    for (const { variant } of turnsOf(ways.length, Number(values.rounds))) {
      const own = times[variant]!;
      // Short calls are repeated, so that one pause of the machine does not decide.
      const repeats = count * numTokens < 1024 ? 8 : 1;
      const startMs = performance.now();
      for (let call = 0; call < repeats; call++) await ways[variant]!.embed(texts);
      own.push((performance.now() - startMs) / repeats);
    }
    const medians = times.map(median);
    const ratio = Math.min(medians[2]!, medians[3]!) / medians[0]!;
    const exact = medians[3]! / medians[1]!;
    rows.push([`${numTokens}`, `${count}`, ...medians.map((ms) => ms.toFixed(2)), ratio.toFixed(2), exact.toFixed(2)]);
    console.log(rows.at(-1)!.join("  "));
  }
}
const columns = ["tokens", "texts", ...ways.map(({ name }) => `${name}: ms`), "best of both", "fp32"];
console.log(markdownTable({ title: "Calls", columns, rows }));
console.log(
  markdownTable({ title: "16 callers of texts of 64 tokens for 3 s", columns: LOOP, rows: await loopRows() }),
);
for (const way of ways) await way.close();

/** Measures delays of the event loop while callers ask one after another. */
async function loopRows(): Promise<string[][]> {
  const measured: string[][] = [];
  for (const { name, embed } of ways) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    const calls: number[] = [];
    const endMs = performance.now() + 3000;
    delay.enable();
    const callers = Array.from({ length: 16 }, async (_, caller) => {
      const [text = ""] = textsOf(caller + 1, 64).slice(-1);
      while (performance.now() < endMs) {
        const startMs = performance.now();
        await embed([text]);
        calls.push(performance.now() - startMs);
      }
    });
    await Promise.all(callers);
    delay.disable();
    const perSecond = calls.length / 3;
    const p99Ms = delay.percentile(99) / 1e6;
    measured.push([name, p99Ms.toFixed(1), perSecond.toFixed(0), percentile(calls, 99).toFixed(1)]);
  }
  return measured;
}
