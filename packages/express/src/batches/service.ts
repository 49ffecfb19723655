// Files and batches of one server: the stores, what runs the batches, and limits.

import { nowSeconds as systemSeconds } from "../api/answer-format.ts";
import { tooMuchOfClient } from "../edge/refusals.ts";
import { LIMITS } from "../limits.ts";
import { BatchStore } from "./batch-store.ts";
import { Feeder, type FeederParts, type FeederTimes } from "./feeder.ts";
import { FileStore } from "./file-store.ts";
import { Root } from "./folder.ts";
import { uploadOverflow } from "./limits.ts";
import { resolveBatchesOptions, type BatchesOptions } from "./options.ts";
import { tooManyUploads, UPLOAD_RETRY_MS } from "./refusals.ts";

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

/** Keeps files and batches, and runs the batches. */
export class Batches {
  readonly files: FileStore;
  readonly store: BatchStore;
  readonly maxFileBytes: number;
  readonly maxUploadMs: number;
  readonly nowSeconds: () => number;
  readonly #feeder: Feeder;
  readonly #maxClientShare: number;
  /** Clients whose files are arriving, one for each file. */
  readonly #uploads: string[] = [];

  /** @throws {TypeError | RangeError} on wrong options */
  constructor(options: BatchesOptions, { nowSeconds = systemSeconds, maxBodyBytes, ...parts }: BatchesParts) {
    const { folder, ...limits } = resolveBatchesOptions(options);
    const root = new Root(folder, ["files", "batches"]);
    this.nowSeconds = nowSeconds;
    this.maxFileBytes = limits.maxFileBytes;
    this.maxUploadMs = limits.maxUploadMs;
    this.#maxClientShare = limits.maxClientShare;
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

  /** Runs a client's upload, if not too many run. @throws {ApiError} 503, 429 */
  async upload<Result>(client: string, receive: () => Promise<Result>): Promise<Result> {
    const limits = { maxUploads: LIMITS.uploads.value, maxClientShare: this.#maxClientShare };
    const overflow = uploadOverflow(this.#uploads, client, limits);
    if (overflow === "all") throw tooManyUploads();
    if (overflow === "client") throw tooMuchOfClient("uploads", UPLOAD_RETRY_MS);
    this.#uploads.push(client);
    try {
      return await receive();
    } finally {
      this.#uploads.splice(this.#uploads.indexOf(client), 1);
    }
  }

  async #inputs(): Promise<ReadonlySet<string>> {
    const running = (await this.store.list()).filter(({ end }) => !end);
    return new Set(running.map(({ record }) => record.inputFileId));
  }
}
