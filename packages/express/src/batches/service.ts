// Files and batches of one server: the stores, what runs the batches, and limits.

import { nowSeconds as systemSeconds } from "../api/answer-format.ts";
import { BatchStore } from "./batch-store.ts";
import { Feeder, type FeederParts, type FeederTimes } from "./feeder.ts";
import { FileStore } from "./file-store.ts";
import { Root } from "./folder.ts";
import { resolveBatchesOptions, type BatchesOptions } from "./options.ts";
import { tooManyUploads } from "./refusals.ts";

/** Services that batches run over. */
export interface BatchesParts extends Pick<FeederParts, "models" | "admission" | "runner"> {
  /** Most bytes of the body of a request. */
  readonly maxBodyBytes: number;
  /** Returns the seconds since 1970. @default the system's clock */
  readonly nowSeconds?: () => number;
  readonly times?: Partial<FeederTimes>;
}

/** Bytes of a line beside its body. */
const ENVELOPE_BYTES = 64 << 10;

/** Files that may arrive at once. */
const MAX_UPLOADS = 8;

/** Keeps files and batches, and runs the batches. */
export class Batches {
  readonly files: FileStore;
  readonly store: BatchStore;
  readonly maxFileBytes: number;
  readonly nowSeconds: () => number;
  readonly #feeder: Feeder;
  #uploads = 0;

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: BatchesOptions, { nowSeconds = systemSeconds, maxBodyBytes, ...parts }: BatchesParts) {
    const { folder, ...limits } = resolveBatchesOptions(options);
    const root = new Root(folder, ["files", "batches"]);
    this.nowSeconds = nowSeconds;
    this.maxFileBytes = limits.maxFileBytes;
    this.files = new FileStore(root, limits, nowSeconds);
    this.store = new BatchStore(root, limits, nowSeconds);
    const { files, store } = this;
    const sweep = async (): Promise<void> => {
      await store.sweep();
      await files.sweep(await this.#inputs());
      await root.sweep(nowSeconds() * 1000);
    };
    const { maxRequests, maxLoad, onError } = limits;
    const maxLineBytes = maxBodyBytes + ENVELOPE_BYTES;
    this.#feeder = new Feeder({
      ...parts,
      files,
      store,
      sweep,
      maxLineBytes,
      maxRequests,
      maxLoad,
      onError,
      nowSeconds,
    });
  }

  /** Resolves when the models are drained and the batches are handed on. */
  get stopped(): Promise<void> {
    return this.#feeder.stopped;
  }

  /** Whether a batch that has not ended reads a file. */
  async isInput(fileId: string): Promise<boolean> {
    return (await this.#inputs()).has(fileId);
  }

  /** Looks for new and cancelled batches at once. */
  look(): void {
    this.#feeder.look();
  }

  /** Runs an upload, if not too many run. @throws {ApiError} 503 */
  async upload<Result>(receive: () => Promise<Result>): Promise<Result> {
    if (this.#uploads >= MAX_UPLOADS) throw tooManyUploads();
    this.#uploads++;
    try {
      return await receive();
    } finally {
      this.#uploads--;
    }
  }

  async #inputs(): Promise<ReadonlySet<string>> {
    const running = (await this.store.list()).filter(({ end }) => !end);
    return new Set(running.map(({ record }) => record.inputFileId));
  }
}
