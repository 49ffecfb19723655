// Packed changes of low-rank experts: made when they are needed, or once into the cache folder.

import { open } from "node:fs/promises";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError } from "@readme-moe/core";
import { changeBytes, packChange, type ChangeFactors, type ChangePrecision } from "@readme-moe/kernel";
import { cachedData, type LowRankExpert } from "@readme-moe/model";

/** Options of `packedChange`. */
export interface ChangePacking {
  readonly precision: ChangePrecision;
  /** Factors of the packed model's products. */
  readonly factors: ChangeFactors;
  /** Text that depends on everything that `factors` is made from. */
  readonly key: string;
  readonly cacheFolder: string;
}

/** A packed change. */
export interface PackedChange {
  readonly numBytes: number;
  /** Reads the change to the beginning of `into`. @throws {ReadMeError} `ERR_FILE_UNREADABLE` */
  read(into: Uint8Array): Promise<void>;
}

// Changes when other bytes are packed for the same expert.
const VERSION = 2;
// Packing takes a few ms per piece of this size, and steps of the engine run in between.
const PIECE_BYTES = 1 << 19;

/** Packs an expert whenever it is read, which must be before the expert is closed. */
export function freshChange(expert: LowRankExpert, { precision, factors }: ChangePacking): PackedChange {
  return {
    numBytes: changeBytes(expert, precision),
    read: async (into) => {
      let end = 0;
      for await (const piece of inTurns(packChange(expert, precision, factors))) {
        into.set(piece, end);
        end += piece.length;
      }
    },
  };
}

/**
 * Packs an expert into the cache folder, or finds it there. It stays readable after the expert is closed.
 * @throws {ReadMeError} when a tensor cannot be read, or holds a number that is not finite; `ERR_WRITE_FAILED`
 */
export async function cachedChange(expert: LowRankExpert, packing: ChangePacking): Promise<PackedChange> {
  const { precision, factors, cacheFolder } = packing;
  const numBytes = changeBytes(expert, precision);
  const key = await changeKey(expert, packing);
  const chunks = (): AsyncIterable<Uint8Array> => inTurns(packChange(expert, precision, factors));
  const note = "a packed low-rank expert";
  const path = await cachedData(cacheFolder, { kind: "experts", key, note, modelPath: expert.path, chunks });
  return { numBytes, read: (into) => readFile(path, into.subarray(0, numBytes)) };
}

/**
 * Returns a text that depends on everything that a packed change depends on. It may be called after the expert is
 * closed.
 */
export async function changeKey(
  expert: LowRankExpert,
  { precision, key, cacheFolder }: ChangePacking,
): Promise<string> {
  return [await expert.fingerprint(cacheFolder), precision, VERSION, key].join(" ");
}

/** Joins pieces to larger ones, and lets other work run after each. */
async function* inTurns(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let numBytes = 0;
  for await (const piece of pieces) {
    waiting.push(piece);
    numBytes += piece.length;
    if (numBytes < PIECE_BYTES) continue;
    yield Buffer.concat(waiting);
    [waiting, numBytes] = [[], 0];
    await nextTurn();
  }
  yield Buffer.concat(waiting);
}

async function readFile(path: string, into: Uint8Array): Promise<void> {
  try {
    const file = await open(path);
    try {
      for (let done = 0; done < into.length;) {
        const { bytesRead } = await file.read(into, done, into.length - done, done);
        if (bytesRead === 0) throw new Error("the file ends too early");
        done += bytesRead;
      }
    } finally {
      await file.close();
    }
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_FILE_UNREADABLE", `${path}: a low-rank expert cannot be read: ${reason}`, { cause });
  }
}
