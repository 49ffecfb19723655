// Log-probabilities of passages. Short passages run together, and a common beginning runs once.

import { setImmediate as nextTurn } from "node:timers/promises";
import type { PreGatingRouter } from "@readme-moe/core";
import { type KvMemory, type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import { routeWhole } from "@readme-moe/router";
import { rewind, type StepRunner } from "../step-runner.ts";
import { checkPassage, type Passage, type PassageScores } from "./passages.ts";

/** Options of a run over many passages. */
export interface ScoreOptions {
  /** Ends the run early. */
  readonly signal?: AbortSignal | undefined;
  /** Called repeatedly with the number of scored passages and the number of all. */
  readonly onProgress?: ((done: { readonly sequences: number; readonly of: number }) => void) | undefined;
}

// Tokens of passages that run together: enough for fast products.
const RUN_TOKENS = 512;
// Keys and values of trees that run together; a tree that needs more runs alone.
const SHARED_POOL_TOKENS = 2048;

interface Scorer {
  readonly runner: StepRunner;
  readonly kv: KvMemory;
  readonly scores: readonly PassageScores[];
}

/**
 * Computes the log-probability of every predicted token.
 *
 * @param groups - passages that may have a common beginning
 * @returns one result per passage, in the order of the groups and of the passages in them
 * @throws {RangeError} if a passage predicts nothing
 */
export async function scorePassages(
  runner: StepRunner,
  router: PreGatingRouter,
  groups: readonly (readonly Passage[])[],
  options: ScoreOptions = {},
): Promise<readonly PassageScores[]> {
  const passages = groups.flat();
  let numPlanned = 0;
  const trees = groups.flatMap((group) => {
    numPlanned += group.length;
    return group.length > 0 ? treesOf(group, numPlanned - group.length) : [];
  });
  const waves = wavesOf(trees);
  const capacityTokens = waves.reduce((most, wave) => Math.max(most, poolTokens(wave)), wholeBlocks(1));
  const kv = runner.openKv({ capacityTokens });
  const scores: PassageScores[] = [];
  try {
    for (const wave of waves) {
      options.signal?.throwIfAborted();
      const numPassages = wave.reduce((sum, tree) => sum + tree.numPassages, 0);
      const own = passages.slice(scores.length, scores.length + numPassages);
      // The last token of a passage never runs.
      const experts = await routeWhole(
        router,
        own.map(({ tokenIds }) => tokenIds.subarray(0, -1)),
      );
      for (const [index, { tokenIds, firstTarget }] of own.entries()) {
        const logProbs = new Float32Array(tokenIds.length - firstTarget);
        scores.push({ logProbs, experts: experts[index] ?? new Uint16Array() });
      }
      await runWave({ runner, kv, scores }, wave);
      options.onProgress?.({ sequences: scores.length, of: passages.length });
      // Runs block their thread: without a break, neither signals nor timers would be processed.
      await nextTurn();
    }
    return scores;
  } finally {
    kv.dispose();
  }
}

/** Groups neighbouring trees whose trunks fit into one run and which together fit into memory. */
function wavesOf(trees: readonly Tree[]): readonly (readonly Tree[])[] {
  const waves: Tree[][] = [];
  let numTokens = 0;
  for (const tree of trees) {
    const wave = waves.at(-1);
    numTokens += tree.trunk.tokenIds.length;
    if (wave && numTokens <= RUN_TOKENS && poolTokens([...wave, tree]) <= SHARED_POOL_TOKENS) {
      wave.push(tree);
      continue;
    }
    waves.push([tree]);
    numTokens = tree.trunk.tokenIds.length;
  }
  return waves;
}

/** Counts the positions of all slots of a wave, in whole blocks. */
function poolTokens(wave: readonly Tree[]): number {
  return wave.reduce((sum, tree) => sum + wholeBlocks(treeTokens(tree)), 0);
}

function treeTokens({ trunk, branches }: Tree): number {
  return trunk.tokenIds.length + Math.max(0, ...branches.map(({ tokenIds }) => tokenIds.length));
}

async function runWave(scorer: Scorer, wave: readonly Tree[]): Promise<void> {
  const placed = wave.map((tree) => ({ ...tree, slot: slotFor(scorer.kv, treeTokens(tree)) }));
  await runPieces(
    scorer,
    placed.map(({ trunk, slot }) => ({ ...trunk, slot })),
  );
  for (const { trunk, branches, slot } of placed) {
    for (const branch of branches) {
      await runPieces(scorer, [{ ...branch, slot }]);
      rewind(scorer.kv, slot, trunk.tokenIds.length);
    }
  }
  for (const { slot } of placed) scorer.kv.release(slot);
}

function slotFor(kv: KvMemory, numTokens: number): KvSlot {
  const slot = kv.admit(numTokens);
  if (slot) return slot;
  throw new Error(`The KV memory has no room for ${numTokens} tokens`);
}

/** Runs pieces together. */
async function runPieces(
  { runner, kv, scores }: Scorer,
  pieces: readonly (Piece & { readonly slot: KvSlot })[],
): Promise<void> {
  const results = await runner.forward(
    kv,
    pieces.map(({ slot, start, tokenIds, rows, passage }) => ({
      slot,
      tokenIds,
      experts: scores[passage]?.experts.subarray(start, start + tokenIds.length) ?? [],
      logitsOf: rows.map(({ position }) => position - start),
      targets: rows.map(({ target }) => target),
    })),
  );
  for (const [index, { rows }] of pieces.entries()) {
    for (const [row, { passage, place }] of rows.entries()) {
      scores[passage]?.logProbs.set(results[index]?.targetLogProbs.subarray(row, row + 1) ?? [], place);
    }
  }
}

// Passages with a common beginning, such as a question with each of its answers, form a tree: a trunk that runs once
// and branches that continue from it.

interface WantedRow {
  /** Position of the token that the logits belong to, in its passage. */
  readonly position: number;
  /** The token that is to be predicted. */
  readonly target: number;
  /** Index of the passage that the log-probability belongs to. */
  readonly passage: number;
  /** Index of the log-probability in the passage's `logProbs`. */
  readonly place: number;
}

/** Tokens `[start, start + tokenIds.length)` of a passage. */
interface Piece {
  readonly start: number;
  readonly tokenIds: Int32Array;
  /** Rows in the order of positions; a position may occur more than once. */
  readonly rows: readonly WantedRow[];
  /** Index of a passage that contains these tokens, and so knows their experts. */
  readonly passage: number;
}

interface Tree {
  readonly trunk: Piece;
  /** Each continues from the end of the trunk. */
  readonly branches: readonly Piece[];
  readonly numPassages: number;
}

// A branch is a run of its own, which takes about as long as this many more tokens in a large run.
const BRANCH_COST_TOKENS = 16;

/**
 * Forms trees: one for a group whose common beginning is long enough to be worth it, otherwise one for each passage. A
 * passage's last token is in no piece, since nothing is predicted from it.
 *
 * @param first - index of the group's first passage among all passages
 */
export function treesOf(group: readonly Passage[], first: number): readonly Tree[] {
  for (const passage of group) checkPassage(passage);
  const common = commonLength(group);
  const isWorthIt = (group.length - 1) * common > group.length * BRANCH_COST_TOKENS;
  if (!isWorthIt) return group.map((passage, index) => treeOf([passage], first + index, passage.tokenIds.length - 1));
  return [treeOf(group, first, common)];
}

function treeOf(group: readonly Passage[], first: number, trunkLength: number): Tree {
  const rows = group.map((passage, index) => wantedRows(passage, first + index));
  const tokenIds = group[0]?.tokenIds ?? new Int32Array();
  const inTrunk = rows.flat().filter(({ position }) => position < trunkLength);
  return {
    numPassages: group.length,
    trunk: {
      start: 0,
      tokenIds: tokenIds.subarray(0, trunkLength),
      rows: inTrunk.toSorted((a, b) => a.position - b.position),
      passage: first,
    },
    branches: group.flatMap((passage, index) => {
      if (passage.tokenIds.length - 1 === trunkLength) return [];
      return {
        start: trunkLength,
        tokenIds: passage.tokenIds.subarray(trunkLength, -1),
        rows: (rows[index] ?? []).filter(({ position }) => position >= trunkLength),
        passage: first + index,
      };
    }),
  };
}

function wantedRows({ tokenIds, firstTarget }: Passage, passage: number): readonly WantedRow[] {
  return Array.from(tokenIds.subarray(firstTarget), (target, place) => ({
    position: firstTarget + place - 1,
    target,
    passage,
    place,
  }));
}

/** Counts the tokens that all passages begin with, without last tokens. */
function commonLength(group: readonly Passage[]): number {
  const [first, ...others] = group;
  let length = Math.min(...group.map(({ tokenIds }) => tokenIds.length - 1));
  for (const { tokenIds } of others) {
    let equal = 0;
    while (equal < length && tokenIds[equal] === first?.tokenIds[equal]) equal++;
    length = equal;
  }
  return length;
}
