import { KvPool, type KvSlot } from "@readme-moe/model";
// What it costs to have the past of a batch in one array per layer, the way attention takes it: copied together at each
// step out of one array per sequence, or in slots side by side, which are widened now and then.
//
//   pnpm bench:kv [--tokens 128] [--sequences 16]      (SmolLM2's shape: 30 layers, 3 KV heads of 64)

import { parseArgs } from "node:util";
import { median } from "readme-moe/bench";

const { values } = parseArgs({
  options: { tokens: { type: "string", default: "128" }, sequences: { type: "string", default: "16" } },
});
const [tokens, numSeqs] = [Number(values.tokens), Number(values.sequences)];
const shape = { numLayers: 30, numKvHeads: 3, headSize: 64 };
const floatsPerToken = 2 * shape.numLayers * shape.numKvHeads * shape.headSize;
const pool = new KvPool({ shape, capacityTokens: numSeqs * (tokens + 128), longFromTokens: 1 << 20 });
const slots = Array.from({ length: numSeqs }, () => pool.admit(tokens) as KvSlot);
for (const slot of slots) pool.writeBlock(slot, 0, new Float32Array(floatsPerToken * tokens).fill(0.1));

// One array per sequence and layer, [numKvHeads, tokens, headSize], copied into one per layer.
const perLayer = shape.numKvHeads * tokens * shape.headSize;
const parts = Array.from({ length: numSeqs }, () =>
  Array.from({ length: 2 * shape.numLayers }, () => new Float32Array(perLayer).fill(0.1)),
);
const together = Array.from({ length: 2 * shape.numLayers }, () => new Float32Array(perLayer * numSeqs).fill(0));
const gatherMs = medianMs(() => {
  together.forEach((target, layer) =>
    parts.forEach((part, index) => target.set(part[layer] as Float32Array, index * perLayer)),
  );
});

const viewMs = medianMs(() => {
  const range = pool.range(slots);
  for (let layer = 0; layer < shape.numLayers; layer++) pool.view(range, layer);
});
const step = new Float32Array(floatsPerToken * numSeqs).fill(0.1);
const appendMs = timeMs(() =>
  slots.forEach((slot, index) => {
    pool.reserve(slot, tokens + 1);
    pool.append(slot, step, index, index + 1);
  }),
);
const before = pool.bytesMoved;
const widenMs = timeMs(() => pool.reserve(slots[0] as KvSlot, tokens + 65));
const widenedBytes = pool.bytesMoved - before;
pool.release(slots[0] as KvSlot);
const moveMs = timeMs(() => pool.compact());

console.log(
  `${numSeqs} sequences of ${tokens} tokens, ${((numSeqs * tokens * floatsPerToken * 4) / 1e6).toFixed(0)} MB`,
);
console.log(`one array per sequence: ${gatherMs.toFixed(2)} ms to copy together, every step`);
console.log(
  `slots side by side:     ${viewMs.toFixed(2)} ms for views, every step; first append ${appendMs.toFixed(2)} ms`,
);
console.log(
  `                        ${widenMs.toFixed(2)} ms to widen all slots (${(widenedBytes / 1e6).toFixed(0)} MB), about once in 64 steps`,
);
console.log(`                        ${moveMs.toFixed(2)} ms to move one slot into a gap`);

function medianMs(work: () => void): number {
  return median(Array.from({ length: 15 }, () => timeMs(work)));
}

function timeMs(work: () => unknown): number {
  const start = performance.now();
  work();
  return performance.now() - start;
}
