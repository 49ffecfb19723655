import type { RouterWeights } from "../weights/locate-weights.ts";

/** An expert of a set, not opened yet. */
export interface ListedExpert {
  readonly name: string;
  /** The adapter's folder. */
  readonly path: string;
}

/** The low-rank experts of a dense model, and the router that chooses among them. */
export interface LowRankSet {
  /** The folder with read-me-experts.json. */
  readonly path: string;
  readonly experts: readonly ListedExpert[];
  /** Has one output more than there are experts: the first is the model without a change, "none". */
  readonly router: RouterWeights | undefined;
  /** Returns a hash in hex of the router's config and tensors, which `cacheFolder` remembers. */
  fingerprint(cacheFolder: string): Promise<string>;
  close(): Promise<void>;
}

/** Name of the file that makes a folder an expert set. */
export const SET_FILE = "read-me-experts.json";

/** Folder of a set's adapters. */
export const ADAPTERS_FOLDER = "experts";

/** Most experts of a set, so that a token's expert fits in 16 bits beside "none". */
export const MAX_EXPERTS = 65_535;
