import type { PreGatingRouter } from "@readme-moe/core";
import { type KvMemory, type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import type { Passage, PassageScores } from "./passage.ts";
import { routePassages } from "./route-passages.ts";
import { type Piece, type Tree, treesOf } from "./trunks.ts";
import { rewind } from "../rewind.ts";
import type { StepRunner } from "../step-runner.ts";

/** Of what runs over many passages: how to end it early, and who hears how far it is. */
export interface ScoreOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called now and then. */
  readonly onProgress?: ((done: { readonly sequences: number; readonly of: number }) => void) | undefined;
}

// Of one run: enough for products to be fast, and few enough for the logits of all of them to fit into memory.
const RUN_TOKENS = 512;
// Keys and values of trees that run together; one that needs more runs alone.
const SHARED_POOL_TOKENS = 2048;

interface Scorer {
  readonly runner: StepRunner;
  readonly kv: KvMemory;
  readonly scores: readonly PassageScores[];
}

/**
 * The log-probability of every predicted token. Short passages run together, long ones in pieces, and what the passages
 * of a group begin with runs once.
 *
 * @param groups - passages that may begin alike
 * @returns one per passage, in the order of the groups and of the passages in them
 * @throws {RangeError} when a passage predicts nothing
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
      const experts = await routePassages(router, own, RUN_TOKENS);
      own.forEach(({ tokenIds, firstTarget }, index) => {
        const logProbs = new Float32Array(tokenIds.length - firstTarget);
        scores.push({ logProbs, experts: experts[index] ?? new Uint16Array() });
      });
      await runWave({ runner, kv, scores }, wave);
      options.onProgress?.({ sequences: scores.length, of: passages.length });
      // Runs block their thread: without a break, neither signals nor timers would be heard.
      await new Promise((resolve) => setImmediate(resolve));
    }
    return scores;
  } finally {
    kv.dispose();
  }
}

/** Neighbouring trees whose trunks fit into one run, and all of which fit into memory. */
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

/** Positions that a wave's slots take together, in whole blocks. */
function poolTokens(wave: readonly Tree[]): number {
  return wave.reduce((sum, tree) => sum + wholeBlocks(treeTokens(tree)), 0);
}

function treeTokens({ trunk, branches }: Tree): number {
  return trunk.tokenIds.length + Math.max(0, ...branches.map(({ tokenIds }) => tokenIds.length));
}

async function runWave(scorer: Scorer, wave: readonly Tree[]): Promise<void> {
  const placed = wave.map((tree) => ({ ...tree, slot: scorer.kv.admit(treeTokens(tree)) as KvSlot }));
  await runPieces(
    scorer,
    placed.map(({ trunk, slot }) => ({ piece: trunk, slot })),
  );
  for (const { trunk, branches, slot } of placed) {
    for (const branch of branches) {
      await runPieces(scorer, [{ piece: branch, slot }]);
      rewind(scorer.kv, slot, trunk.tokenIds.length);
    }
  }
  for (const { slot } of placed) scorer.kv.release(slot);
}

interface PlacedPiece {
  readonly piece: Piece;
  readonly slot: KvSlot;
}

/** Several pieces of `RUN_TOKENS` together, or a longer one in as many runs as it takes. */
async function runPieces(scorer: Scorer, pieces: readonly PlacedPiece[]): Promise<void> {
  const longest = Math.max(...pieces.map(({ piece }) => piece.tokenIds.length));
  for (let from = 0; from < longest; from += RUN_TOKENS) {
    await runOnce(
      scorer,
      pieces.map(({ piece, slot }) => ({ piece: partOf(piece, from, from + RUN_TOKENS), slot })),
    );
  }
}

async function runOnce({ runner, kv, scores }: Scorer, pieces: readonly PlacedPiece[]): Promise<void> {
  const results = await runner.forward(
    kv,
    pieces.map(({ piece: { start, tokenIds, rows, passage }, slot }) => ({
      slot,
      tokenIds,
      experts: scores[passage]?.experts.subarray(start, start + tokenIds.length) ?? [],
      logitsOf: rows.map(({ position }) => position - start),
      targets: rows.map(({ target }) => target),
    })),
  );
  pieces.forEach(({ piece }, index) => {
    piece.rows.forEach(({ passage, place }, row) => {
      const { logProbs } = scores[passage] as PassageScores;
      logProbs[place] = results[index]?.targetLogProbs[row] as number;
    });
  });
}

/** Tokens `[from, to)` of a piece, which is all of it where it is short enough. */
function partOf(piece: Piece, from: number, to: number): Piece {
  const { start, tokenIds, rows } = piece;
  const [first, end] = [start + from, start + to];
  return {
    ...piece,
    start: first,
    tokenIds: tokenIds.subarray(from, to),
    rows: rows.filter(({ position }) => position >= first && position < end),
  };
}
