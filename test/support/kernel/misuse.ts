// Mistakes of a kernel's caller with memory that a step needs. Each is refused, or changes no bit; none reads or writes
// what is not there. `programs/misuse-kernel.ts` runs them, since a kernel that errs ends its process.

import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Worker } from "node:worker_threads";
import {
  loraBytes,
  expertUnits,
  openKernel,
  packLora,
  type Kernel,
  type KernelKind,
  type StepResults,
} from "@readme-moe/kernel";
import { loadAddon, type Addon } from "../../../packages/kernel/src/native-kernel.ts";
import { pageMemory } from "../page-memory.ts";
import { seededRandom } from "../random.ts";
import { packedBytes, setAllAngles } from "./packed-bytes.ts";
import { randomLora } from "./random-lora.ts";
import {
  NUM_SMALL_PAGES,
  openSmall,
  resultsOf,
  SMALL_EXPERTS,
  SMALL_MODEL,
  SMALL_REQUEST,
  SMALL_SHAPE,
  SMALL_SIZES,
} from "./small-model.ts";

type Misuse = (kind: KernelKind) => Promise<void> | void;

const { numLayers, numExperts } = SMALL_SHAPE;
/** Words of a request before its tokens. */
const HEADER = 6;

/** Allocates a buffer that can shrink. */
function shrinking(byteLength: number): ArrayBuffer {
  return pageMemory(byteLength).buffer as ArrayBuffer;
}

function giveAway(buffer: ArrayBufferLike): void {
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
}

/** Collects what nobody holds, and overwrites the memory that it had. */
function collect(): void {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  for (let i = 0; i < 3; i++) gc();
  Array.from({ length: 200 }, () => new Uint8Array(1 << 14).fill(255));
}

const small = (kind: KernelKind): Promise<Kernel> => openSmall({ kernel: kind }, 1);

function wholeStep(kernel: Kernel): StepResults {
  const results = resultsOf(1);
  kernel.step(kernel.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST, results);
  return results;
}

function endStep(kernel: Kernel): void {
  for (let layer = 0; layer < numLayers; layer++) kernel.runLayers(layer, layer + 1);
  kernel.endStep();
}

/** Opens a kernel whose experts are placed one by one, and all of them from buffers that can shrink. */
async function placed(): Promise<{ kernel: Kernel; unitOf: (layer: number, expert: number) => Uint8Array }> {
  const { plain, description } = SMALL_EXPERTS;
  const units = expertUnits(description);
  const bytes = await packedBytes(description);
  const kernel = openKernel(bytes, { ...SMALL_SIZES, expertsFromByte: units.fromByte }, { kernel: "native" });
  setAllAngles(kernel, plain);
  const unitOf = (layer: number, expert: number): Uint8Array => {
    const { start, bytes: length } = units.rangeOf(layer, expert);
    const unit = new Uint8Array(shrinking(length));
    unit.set(bytes.subarray(start, start + length));
    return unit;
  };
  return { kernel, unitOf };
}

function placeAll(kernel: Kernel, unitOf: (layer: number, expert: number) => Uint8Array): readonly Uint8Array[] {
  return Array.from({ length: numLayers * numExperts }, (_, index) => {
    const [layer, expert] = [Math.floor(index / numExperts), index % numExperts];
    const unit = unitOf(layer, expert);
    kernel.placeUnit(layer, expert, unit);
    return unit;
  });
}

/** Takes the memory of one unit away between two steps, and again between two layers of one. */
async function withoutUnit(takeAway: (unit: Uint8Array) => void): Promise<void> {
  const { kernel, unitOf } = await placed();
  // The last layer runs only the wanted row, the last one, with its expert.
  const expert = 19 % numExperts;
  const last = placeAll(kernel, unitOf)[(numLayers - 1) * numExperts + expert] as Uint8Array;
  const expected = wholeStep(kernel);
  const place = (unit: Uint8Array): void => kernel.placeUnit(numLayers - 1, expert, unit);
  takeAway(last);
  assert.throws(() => wholeStep(kernel), RangeError);
  const next = unitOf(numLayers - 1, expert);
  place(next);
  const results = resultsOf(1);
  kernel.beginStep(kernel.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST, results);
  kernel.runLayers(0, numLayers - 1);
  takeAway(next);
  assert.throws(() => kernel.runLayers(numLayers - 1, numLayers), RangeError);
  place(unitOf(numLayers - 1, expert));
  kernel.runLayers(numLayers - 1, numLayers);
  kernel.endStep();
  assert.deepEqual(results, expected);
}

/** Takes the memory of a lora away, which the rows of a step have. */
async function withoutLora(takeAway: (lora: Uint8Array) => void): Promise<void> {
  const kernel = await small("native");
  const { packed, plain } = randomLora(seededRandom(3), SMALL_MODEL.plain);
  const newLora = async (): Promise<Uint8Array> => {
    const bytes = new Uint8Array(shrinking(loraBytes(packed, plain.precision)));
    let end = 0;
    for await (const piece of packLora(packed, plain.precision, () => ({}))) {
      bytes.set(piece, end);
      end += piece.length;
    }
    return bytes;
  };
  const request = SMALL_REQUEST.slice();
  request.fill(0, HEADER + 2 * 20, HEADER + 3 * 20);
  const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
  const lora = await newLora();
  kernel.placeLora(0, lora);
  kernel.step(pages, request, resultsOf(1));
  takeAway(lora);
  assert.throws(() => kernel.step(pages, request, resultsOf(1)), RangeError);
  const next = await newLora();
  kernel.placeLora(0, next);
  kernel.beginStep(pages, request, resultsOf(1));
  takeAway(next);
  assert.throws(() => kernel.runLayers(0, 1), RangeError);
  wholeStep(kernel);
}

/** Begins a step, changes its results, and expects its end to be refused. */
async function changedResults(kind: KernelKind, results: StepResults, change: () => void): Promise<void> {
  const kernel = await small(kind);
  const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
  const expected = wholeStep(kernel);
  kernel.beginStep(pages, SMALL_REQUEST, results);
  kernel.runLayers(0, numLayers);
  change();
  collect();
  assert.throws(() => kernel.endStep(), RangeError);
  assert.deepEqual(wholeStep(kernel), expected);
}

/** Mistakes by what they are. */
export const MISUSES: Readonly<Record<string, Misuse>> = {
  "a request that changes after its step began": async (kind) => {
    const kernel = await small(kind);
    const [expected, results, request] = [wholeStep(kernel), resultsOf(1), SMALL_REQUEST.slice()];
    kernel.beginStep(kernel.openPages(NUM_SMALL_PAGES, "fp16"), request, results);
    request.fill(2 ** 30);
    endStep(kernel);
    assert.deepEqual(results, expected);
  },
  "angles that are set after a step began": async (kind) => {
    const kernel = await small(kind);
    const [expected, results] = [wholeStep(kernel), resultsOf(1)];
    kernel.beginStep(kernel.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST, results);
    setAllAngles(kernel, SMALL_MODEL.plain);
    endStep(kernel);
    assert.deepEqual(results, expected);
  },
  "a request that other threads write to while its steps run": async (kind) => {
    const kernel = await small(kind);
    const shared = new Int32Array(new SharedArrayBuffer(SMALL_REQUEST.byteLength));
    const code = `const shared = require("node:worker_threads").workerData;
      for (let i = 0; ; i++) Atomics.store(shared, i % shared.length, (i * 2654435761) | 0);`;
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    shared.set(SMALL_REQUEST);
    const worker = new Worker(code, { eval: true, workerData: shared });
    for (let i = 0; i < 3000; i++) {
      shared.set(SMALL_REQUEST);
      try {
        kernel.step(pages, shared, resultsOf(8));
      } catch (error) {
        assert.ok(error instanceof RangeError);
      }
    }
    await worker.terminate();
  },
  "results in the memory of their request": async (kind) => {
    const kernel = await small(kind);
    const { logits: expected } = wholeStep(kernel);
    const request = new Int32Array(SMALL_REQUEST);
    // The results lie over the wanted rows and their targets at the request's end.
    const logits = new Float32Array(request.buffer, request.byteLength - 8);
    const candidateIds = new Int32Array(request.buffer, request.byteLength - 12, 1);
    kernel.step(kernel.openPages(NUM_SMALL_PAGES, "fp16"), request, { ...resultsOf(1), candidateIds, logits });
    assert.deepEqual(logits, expected);
  },
  "results whose buffer is given away": (kind) => {
    const results = resultsOf(1);
    return changedResults(kind, results, () => giveAway(results.logits.buffer));
  },
  "results that shrink": (kind) => {
    const buffer = shrinking(1 << 16);
    return changedResults(kind, { ...resultsOf(1), sums: new Float64Array(buffer) }, () => buffer.resize(8));
  },
  "pages that close after a step began": async (kind) => {
    const kernel = await small(kind);
    const expected = wholeStep(kernel);
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    kernel.beginStep(pages, SMALL_REQUEST, resultsOf(1));
    kernel.runLayers(0, 1);
    pages.close();
    collect();
    assert.throws(() => kernel.runLayers(1, 2), TypeError);
    assert.throws(() => kernel.endStep(), TypeError);
    assert.deepEqual(wholeStep(kernel), expected);
  },
  "pages and results that nobody holds after a step began": async (kind) => {
    const kernel = await small(kind);
    (() => kernel.beginStep(kernel.openPages(NUM_SMALL_PAGES, "fp16"), SMALL_REQUEST.slice(), resultsOf(1)))();
    collect();
    await new Promise((resolve) => setImmediate(resolve));
    collect();
    endStep(kernel);
  },
  "a step that is begun after one that is refused": async (kind) => {
    const kernel = await small(kind);
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    kernel.beginStep(pages, SMALL_REQUEST, resultsOf(1));
    assert.throws(() => kernel.beginStep(pages, SMALL_REQUEST.slice(1), resultsOf(1)), RangeError);
    assert.throws(() => kernel.runLayers(0, 1), RangeError);
    kernel.beginStep(pages, SMALL_REQUEST, resultsOf(1));
    endStep(kernel);
    assert.throws(() => kernel.endStep(), RangeError);
  },
};

/** Mistakes with memory that only the addon's callers lend it: that of WebAssembly never shrinks. */
export const NATIVE_MISUSES: Readonly<Record<string, Misuse>> = {
  ...MISUSES,
  "a unit whose buffer shrinks": () => withoutUnit(({ buffer }) => (buffer as ArrayBuffer).resize(0)),
  "a unit whose buffer is given away": () =>
    withoutUnit(({ buffer }) => {
      giveAway(buffer);
      collect();
    }),
  "units that nobody holds": async () => {
    const { kernel, unitOf } = await placed();
    const held = placeAll(kernel, unitOf);
    const expected = wholeStep(kernel);
    held.forEach((unit) => unit.fill(0));
    placeAll(kernel, unitOf);
    collect();
    assert.deepEqual(wholeStep(kernel), expected);
  },
  "a lora whose buffer shrinks": () => withoutLora(({ buffer }) => (buffer as ArrayBuffer).resize(0)),
  "a lora whose buffer is given away": () => withoutLora(({ buffer }) => giveAway(buffer)),
  "handles of another copy of the addon": async () => {
    const folder = mkdtempSync(join(tmpdir(), "readme-moe-addon-"));
    try {
      const [copy, require] = [join(folder, "kernel.node"), createRequire(import.meta.url)];
      copyFileSync(
        require.resolve(`../../../packages/kernel/prebuilt/${process.platform}-${process.arch}/kernel.node`),
        copy,
      );
      const [own, other] = [loadAddon(), require(copy) as Addon];
      const options = Int32Array.of(1, SMALL_SIZES.maxRows, SMALL_SIZES.maxPositions, 0);
      const kernel = other.open(await packedBytes(SMALL_MODEL.description), "plain", options);
      assert.throws(() => own.openPages(kernel, NUM_SMALL_PAGES, 0, 1), TypeError);
      assert.throws(
        () => own.readPage(other.openPages(kernel, NUM_SMALL_PAGES, 0, 1), 0, new Uint8Array(64)),
        TypeError,
      );
      assert.throws(() => own.close(Object.create(kernel as object)), TypeError);
      assert.throws(() => other.close(new Proxy(kernel as object, {})), TypeError);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};
