// Compares ways to choose the neurons that a token uses, without any fitting: the loss of a dense model whose other
// neurons are left out, for each way at the same number of neurons. All ways have the same statistics of the same text.
//
//   npm run bench:policies -- --model FILE --data python=a.jsonl json=b.jsonl [--share 0.6875] [--sequences 8]
//     [--groups 4] [--threads 2] [--out X.json]

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { describeModel, FrozenProduct, LayerPiece, ProductTeam } from "@readme-moe/kernel";
import { endOfTextId, type Model, openModel } from "@readme-moe/model";
import { columnSquares, topNeurons } from "../packages/refactor/src/experts/select.ts";
import { prepareDomain } from "../packages/refactor/src/job/prepare-domain.ts";
import { layerSource, readDense } from "../packages/refactor/src/layers/layer-graphs.ts";
import { balancedAssignment } from "./kit/balanced-assignment.ts";
import { markdownTable } from "./kit/report.ts";

const SEQUENCE_TOKENS = 256;
/** Experts that CMoE divides a layer into, of which some are shared and as many of the others are chosen for a token. */
const CARVED = { experts: 16, shared: 5, chosen: 6 } as const;
/** Neurons of a token that count as active for CMoE's markers. */
const MARKED = 64;
/** Tokens whose nearest group decides together. */
const WINDOW_TOKENS = 64;

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    data: { type: "string", multiple: true, default: [] },
    share: { type: "string", default: String((CARVED.shared + CARVED.chosen) / CARVED.experts) },
    sequences: { type: "string", default: "8" },
    groups: { type: "string", default: "4" },
    threads: { type: "string", default: "2" },
    out: { type: "string" },
  },
});
if (values.model === undefined) throw new TypeError("Expected --model FILE");

/** Policy: writes 1 to the neurons that a token uses. */
type Policy = (layer: number, token: number, neurons: Float32Array, used: Uint8Array) => void;

/** Part of a layer that CMoE makes of it. */
interface Carved {
  /** Expert of each neuron; -1 for shared ones. */
  readonly expertOf: Int8Array;
  /** Neuron by whose activation each expert is chosen. */
  readonly representatives: readonly number[];
}

const threads = Number(values.threads);
const team = new ProductTeam(threads);
const model = await openModel(values.model);
const { hiddenSize, intermediateSize: width, numLayers, residualScale } = model.config;
if (residualScale !== 1 || model.weights.layers.some(({ ffnOutputNorm }) => ffnOutputNorm)) {
  throw new TypeError("Expected a model whose FFNs add their outputs to the stream as they are");
}
const size = Math.round(Number(values.share) * width);
const texts = await readTexts();
const [training, test] = [texts.flatMap(({ training: own }) => own), texts.flatMap(({ test: own }) => own)];
const kindOf = texts.flatMap(({ test: own }, kind) => own.flatMap((ids) => Array.from(ids, () => kind)));
const numTokens = test.length * SEQUENCE_TOKENS;
console.log(
  `${training.length * SEQUENCE_TOKENS} tokens of statistics, ${numTokens} held out, ${size} of ${width} neurons`,
);

const statistics = await measure(training);
const tested = await measure(test);
const numGroups = Number(values.groups);
const kinds = texts.flatMap(({ training: own }, kind) => own.map(() => kind));
const windowKinds = kinds.flatMap((kind) => Array.from({ length: SEQUENCE_TOKENS / WINDOW_TOKENS }, () => kind));
const groups = groupWindows(statistics.windows, windowKinds);
const report = await evaluateAll();
console.log(tableOf(report));
if (values.out !== undefined) await writeFile(values.out, JSON.stringify({ options: values, report }, null, 2));
team.close();
await model.close();

async function readTexts(): Promise<
  readonly { readonly training: readonly Int32Array[]; readonly test: readonly Int32Array[] }[]
> {
  const { tokenizer } = await model.loadText();
  const count = Number(values.sequences);
  return Promise.all(
    values.data.map(async (argument) => {
      const [name = "", file = ""] = argument.split("=");
      const lines = (await readFile(file, "utf8")).trim().split("\n");
      const documents = lines.map((line) => (JSON.parse(line) as { readonly text: string }).text);
      const { calibration, evaluation } = prepareDomain({ name, files: [file], documents }, tokenizer, {
        calibrationTokens: count * SEQUENCE_TOKENS,
        routerTokens: 0,
        evaluationSequences: count / 2,
        sequenceTokens: SEQUENCE_TOKENS,
        endOfText: endOfTextId(tokenizer, model.config.eosTokenIds),
        seed: 1,
      });
      return { training: calibration, test: evaluation };
    }),
  );
}

/** Statistics of the dense model on some sequences. */
interface Measured {
  /** Energies of each window's neurons: squared outputs relative to the token's, `[windows][layers][neurons]`. */
  readonly windows: readonly (readonly Float32Array[])[];
  readonly carved: readonly Carved[];
}

async function measure(sequences: readonly Int32Array[]): Promise<Measured> {
  const rows = await embed(sequences);
  const count = sequences.length * (SEQUENCE_TOKENS / WINDOW_TOKENS);
  const windows = Array.from({ length: count }, (): Float32Array[] => []);
  const carved: Carved[] = [];
  for (let layer = 0; layer < numLayers; layer++) {
    const norms = columnSquares((await readDense(layerSource(model, layer))).weight);
    for (const window of windows) window.push(new Float32Array(width));
    const marks: Int32Array[] = [];
    await runLayer(layer, rows, (token, neurons) => {
      const energies = neurons.map((value, i) => value * value * norms[i]!);
      const sum = energies.reduce((total, energy) => total + energy, 0);
      const own = windows[windowOf(token)]![layer]!;
      for (let i = 0; i < width; i++) own[i]! += energies[i]! / sum;
      marks.push(topNeurons(neurons.map(Math.abs), MARKED));
    });
    carved.push(carve(marks));
    console.log(`measured layer ${layer + 1} of ${numLayers}`);
  }
  return { windows, carved };
}

/**
 * Divides a layer as CMoE does (arXiv 2502.04416): neurons that are active most often are shared, and the others are
 * divided into equal experts by the tokens that they are active for.
 */
function carve(marks: readonly Int32Array[]): Carved {
  const rates = new Float64Array(width);
  for (const mark of marks) for (const neuron of mark) rates[neuron]!++;
  const unit = Math.floor(width / CARVED.experts);
  const order = Array.from(rates.keys()).sort((a, b) => rates[b]! - rates[a]!);
  const shared = width - unit * (CARVED.experts - CARVED.shared);
  const routed = order.slice(shared);
  const numExperts = CARVED.experts - CARVED.shared;
  const tokensOf = new Map(routed.map((neuron): [number, number[]] => [neuron, []]));
  marks.forEach((mark, token) => mark.forEach((neuron) => tokensOf.get(neuron)?.push(token)));
  // The most active neurons are the first centres, and centres are means of their experts' marks afterwards.
  let centres = routed.slice(0, numExperts).map((neuron) => meanMarks([neuron], tokensOf, marks.length));
  let assignment: readonly number[] = [];
  for (let round = 0; round < 4; round++) {
    const scores = routed.map((neuron) =>
      centres.map((centre) => {
        const own = tokensOf.get(neuron)!;
        return own.reduce((sum, token) => sum + centre[token]!, 0) / Math.sqrt(own.length + 1);
      }),
    );
    assignment = balancedAssignment(scores, unit);
    centres = centres.map((_, expert) =>
      meanMarks(
        routed.filter((_neuron, place) => assignment[place] === expert),
        tokensOf,
        marks.length,
      ),
    );
  }
  const expertOf = new Int8Array(width).fill(-1);
  routed.forEach((neuron, place) => (expertOf[neuron] = assignment[place]!));
  const representatives = centres.map((centre, expert) => {
    const scoreOf = (neuron: number): number => tokensOf.get(neuron)!.reduce((sum, token) => sum + centre[token]!, 0);
    return routed
      .filter((_, place) => assignment[place] === expert)
      .reduce((best, neuron) => (scoreOf(neuron) > scoreOf(best) ? neuron : best));
  });
  return { expertOf, representatives };
}

function meanMarks(
  neurons: readonly number[],
  tokensOf: ReadonlyMap<number, readonly number[]>,
  numMarks: number,
): Float32Array {
  const mean = new Float32Array(numMarks);
  for (const neuron of neurons) for (const token of tokensOf.get(neuron)!) mean[token]! += 1;
  const length = Math.sqrt(mean.reduce((sum, value) => sum + value * value, 0)) || 1;
  return mean.map((value) => value / length);
}

/** Neurons of each group and layer, and how often each group has a token. */
interface Groups {
  readonly masks: readonly (readonly Uint8Array[])[];
  readonly tokenCounts: readonly ReadonlyMap<number, number>[];
}

/**
 * Learns groups of windows by the neurons that they need: each group keeps those with the most energy, and windows are
 * divided among groups by balanced transport of what each keeps.
 */
function groupWindows(windows: Measured["windows"], initial: readonly number[]): Groups {
  let assignment = initial.map((kind, index) =>
    numGroups <= texts.length
      ? kind % numGroups
      : (kind + texts.length * (index % Math.ceil(numGroups / texts.length))) % numGroups,
  );
  let masks = masksOf(windows, assignment, numGroups);
  for (let round = 0; round < 8; round++) {
    const scores = windows.map((window) => masks.map((mask) => keptBy(window, mask)));
    assignment = [...balancedAssignment(scores, Math.ceil((1.5 * windows.length) / numGroups))];
    masks = masksOf(windows, assignment, numGroups);
  }
  const tokenCounts = masks.map(() => new Map<number, number>());
  const perSequence = SEQUENCE_TOKENS / WINDOW_TOKENS;
  assignment.forEach((group, window) => {
    const ids = training[Math.floor(window / perSequence)]!;
    const from = (window % perSequence) * WINDOW_TOKENS;
    const counts = tokenCounts[group]!;
    for (const id of ids.subarray(from, from + WINDOW_TOKENS)) counts.set(id, (counts.get(id) ?? 0) + 1);
  });
  return { masks, tokenCounts };
}

function masksOf(windows: Measured["windows"], assignment: readonly number[], count: number): Uint8Array[][] {
  return Array.from({ length: count }, (_, group) =>
    Array.from({ length: numLayers }, (__, layer) => {
      const sums = new Float64Array(width);
      windows.forEach((window, index) => {
        if (assignment[index] === group) window[layer]!.forEach((energy, neuron) => (sums[neuron]! += energy));
      });
      return maskOf(topNeurons(sums, size));
    }),
  );
}

function maskOf(neurons: Int32Array): Uint8Array {
  const mask = new Uint8Array(width);
  for (const neuron of neurons) mask[neuron] = 1;
  return mask;
}

function keptBy(window: readonly Float32Array[], masks: readonly Uint8Array[]): number {
  return window.reduce((sum, energies, layer) => {
    const mask = masks[layer]!;
    return sum + energies.reduce((kept, energy, neuron) => kept + (mask[neuron] ? energy : 0), 0);
  }, 0);
}

interface Row {
  readonly policy: string;
  readonly loss: number;
  readonly aboveDense: number;
}

async function evaluateAll(): Promise<readonly Row[]> {
  const all = masksOf(
    statistics.windows,
    statistics.windows.map(() => 0),
    1,
  )[0]!;
  const ofKinds = masksOf(statistics.windows, windowKinds, texts.length);
  const best = tested.windows.map((window) => largest(groups.masks.map((mask) => keptBy(window, mask))));
  const read = tested.windows.map((_, window) =>
    largest(groups.tokenCounts.map((counts) => logLikelihood(window, counts))),
  );
  const norms: Float64Array[] = [];
  for (let layer = 0; layer < numLayers; layer++) {
    norms.push(columnSquares((await readDense(layerSource(model, layer))).weight));
  }
  const policies: Readonly<Record<string, Policy>> = {
    dense: (_, __, ___, used) => used.fill(1),
    "one choice for all text": (layer, _, __, used) => used.set(all[layer]!),
    "of each kind": (layer, token, _, used) => used.set(ofKinds[kindOf[token]!]![layer]!),
    [`${numGroups} learned groups, by text`]: (layer, token, _, used) =>
      used.set(groups.masks[read[windowOf(token)]!]![layer]!),
    [`${numGroups} learned groups, the best`]: (layer, token, _, used) =>
      used.set(groups.masks[best[windowOf(token)]!]![layer]!),
    "CMoE, chosen in each layer": (layer, _, neurons, used) => useCarved(statistics.carved[layer]!, neurons, used),
    "best neurons of each token": (layer, _, neurons, used) =>
      used.set(
        maskOf(
          topNeurons(
            neurons.map((value, i) => value * value * norms[layer]![i]!),
            size,
          ),
        ),
      ),
  };
  const rows: Row[] = [];
  for (const [policy, choose] of Object.entries(policies)) {
    const loss = await lossOf(choose);
    rows.push({ policy, loss, aboveDense: loss - (rows[0]?.loss ?? loss) });
    console.log(`${policy}: ${loss.toFixed(4)}`);
  }
  return rows;
}

function windowOf(token: number): number {
  return Math.floor(token / WINDOW_TOKENS);
}

/** Uses shared neurons, and the experts whose representatives are most active. */
function useCarved({ expertOf, representatives }: Carved, neurons: Float32Array, used: Uint8Array): void {
  const activity = representatives.map((neuron) => Math.abs(neurons[neuron]!));
  const order = [...activity.keys()].sort((a, b) => activity[b]! - activity[a]!);
  const chosen = new Set([-1, ...order.slice(0, CARVED.chosen)]);
  for (let i = 0; i < width; i++) used[i] = chosen.has(expertOf[i]!) ? 1 : 0;
}

/** Returns how likely a window's tokens are in a group, by counts of tokens alone. */
function logLikelihood(window: number, counts: ReadonlyMap<number, number>): number {
  const perSequence = SEQUENCE_TOKENS / WINDOW_TOKENS;
  const ids = test[Math.floor(window / perSequence)]!;
  const from = (window % perSequence) * WINDOW_TOKENS;
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  let sum = 0;
  for (const id of ids.subarray(from, from + WINDOW_TOKENS))
    sum += Math.log(((counts.get(id) ?? 0) + 0.1) / (total + 100));
  return sum;
}

function largest(scores: readonly number[]): number {
  return scores.indexOf(Math.max(...scores));
}

/** Runs held-out text with the neurons that a policy chooses. @returns the mean loss of a token */
async function lossOf(policy: Policy): Promise<number> {
  const rows = await embed(test);
  const used = new Uint8Array(width);
  for (let layer = 0; layer < numLayers; layer++) {
    await runLayer(layer, rows, (token, neurons) => {
      policy(layer, token, neurons, used);
      for (let i = 0; i < width; i++) if (used[i] === 0) neurons[i] = 0;
    });
  }
  const { finalNorm, head } = model.weights;
  const scales = await finalNorm.store.readFloats(finalNorm.name);
  const product = await FrozenProduct.open(team, { weight: head, bias: undefined }, { hasGradients: false });
  const { rmsNormEpsilon: epsilon, normOffset: offset, logitScale } = model.config;
  let [sum, count] = [0, 0];
  for (let from = 0; from < numTokens; from += SEQUENCE_TOKENS) {
    const normed = rows.slice(from * hiddenSize, (from + SEQUENCE_TOKENS) * hiddenSize);
    for (let row = 0; row < SEQUENCE_TOKENS; row++) {
      const own = normed.subarray(row * hiddenSize, (row + 1) * hiddenSize);
      const squares = own.reduce((total, value) => total + value * value, 0) / hiddenSize;
      own.forEach((value, i) => (own[i] = (value / Math.sqrt(squares + epsilon)) * (scales[i]! + offset) * logitScale));
    }
    const logits = product.forward(normed);
    const ids = test[from / SEQUENCE_TOKENS]!;
    for (let row = 0; row + 1 < SEQUENCE_TOKENS; row++) {
      const own = logits.subarray(row * product.numOut, (row + 1) * product.numOut);
      let top = -Infinity;
      for (const logit of own) if (logit > top) top = logit;
      let total = 0;
      for (const logit of own) total += Math.exp(logit - top);
      sum += top + Math.log(total) - own[ids[row + 1]!]!;
      count++;
    }
  }
  return sum / count;
}

async function embed(sequences: readonly Int32Array[]): Promise<Float32Array> {
  const { store, name } = model.weights.embedding;
  const table = await store.readFloats(name);
  const rows = new Float32Array(sequences.length * SEQUENCE_TOKENS * hiddenSize);
  sequences.forEach((ids, sequence) =>
    ids.forEach((id, token) => {
      const row = table.subarray(id * hiddenSize, (id + 1) * hiddenSize);
      rows.set(row, (sequence * SEQUENCE_TOKENS + token) * hiddenSize);
    }),
  );
  if (model.config.embeddingScale !== 1) rows.forEach((value, i) => (rows[i] = value * model.config.embeddingScale));
  return rows;
}

/**
 * Runs a layer on rows, in place.
 *
 * @param change - sees the neurons of each token, and may change them
 */
async function runLayer(
  layer: number,
  rows: Float32Array,
  change: (token: number, neurons: Float32Array) => void,
): Promise<void> {
  const together = 4;
  const maxRows = together * SEQUENCE_TOKENS;
  const dense = { ...model, experts: { names: ["dense"] } as unknown as Model["experts"] };
  const sizes = { threads, maxRows, maxPositions: SEQUENCE_TOKENS, kvPrecision: "fp32" as const };
  const piece = await LayerPiece.open(describeModel(dense, "file"), model.config, {
    from: layer,
    to: layer + 1,
    ...sizes,
  });
  const down = await FrozenProduct.open(team, layerSource(model, layer).ffn.down, { hasGradients: false });
  const step = maxRows * hiddenSize;
  for (let from = 0; from < rows.length; from += step) {
    const own = rows.slice(from, from + step);
    const numRows = own.length / hiddenSize;
    const [attended, gated] = [new Float32Array(own.length), new Float32Array(numRows * width)];
    const sequences = Array.from({ length: numRows / SEQUENCE_TOKENS }, () => ({ numTokens: SEQUENCE_TOKENS }));
    piece.run(own, sequences, { attended, gated });
    for (let row = 0; row < numRows; row++) {
      change(from / hiddenSize + row, gated.subarray(row * width, (row + 1) * width));
    }
    down.forward(gated).forEach((value, i) => (rows[from + i] = attended[i]! + value));
  }
  await piece.close();
}

function tableOf(rows: readonly Row[]): string {
  const cells = rows.map(({ policy, loss, aboveDense }) => [policy, loss.toFixed(3), `+${aboveDense.toFixed(3)}`]);
  return markdownTable({
    title: `${size} of ${width} neurons`,
    columns: ["neurons", "loss", "above dense"],
    rows: cells,
  });
}
