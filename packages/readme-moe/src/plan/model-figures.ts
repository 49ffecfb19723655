// Figures of a model for a plan: from its report, and measured on its files.

import { open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";

/** Figures in a model folder's report; absent if the report does not have them. */
export interface ReportFigures {
  readonly locality?: number | undefined;
  /** Mean loss above the dense model's, nats per token. */
  readonly aboveDense?: number | undefined;
}

/** Reads a model's report. Returns no figures if there is no report, or none that can be read. */
export async function reportFigures(folder: string): Promise<ReportFigures> {
  try {
    const report: unknown = JSON.parse(await readFile(join(folder, "report.json"), "utf8"));
    const losses = at(report, "losses");
    const ours = Array.isArray(losses) ? losses.find((row: unknown) => at(row, "id") === "ours") : undefined;
    // A tuning's figure describes the model as it is now; the table of losses, the model before the tuning.
    const aboveDense = at(report, "tuning", "after", "above_dense") ?? at(ours, "above_dense");
    const locality = at(report, "router", "locality");
    return {
      locality: typeof locality === "number" && locality >= 0 && locality <= 1 ? locality : undefined,
      aboveDense: typeof aboveDense === "number" ? aboveDense : undefined,
    };
  } catch {
    return {};
  }
}

/** Reads a value below an object; `undefined` if it is not there. */
function at(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (typeof inner === "object" && inner !== null ? Reflect.get(inner, key) : undefined),
    value,
  );
}

const [PIECE_BYTES, MAX_BYTES] = [4 << 20, 64 << 20];

/**
 * Measures how fast a file is read, in pieces one after the other, as experts are. Pieces in the system's cache come
 * from there, as they will for the engine.
 *
 * @returns MB/s; `undefined` if the file is too small to measure
 */
export async function readSpeed(path: string, now: () => number): Promise<number | undefined> {
  const { size } = await stat(path);
  const pieces = Math.floor(Math.min(size, MAX_BYTES) / PIECE_BYTES);
  if (pieces === 0) return undefined;
  const piece = new Uint8Array(PIECE_BYTES);
  const file = await open(path);
  try {
    const startMs = now();
    for (let index = 0; index < pieces; index++) await file.read(piece, 0, PIECE_BYTES, index * PIECE_BYTES);
    return (pieces * PIECE_BYTES) / 1e3 / Math.max(1e-3, now() - startMs);
  } finally {
    await file.close();
  }
}
