// Work that machines share: tasks by name, and the store of their results.

/** Bytes by key, which several machines share: a folder, or a store like S3. */
export interface ArtefactStore {
  readonly has: (key: string) => Promise<boolean>;
  /** Reads the bytes of a key; nothing when there are none. */
  readonly get: (key: string) => Promise<Uint8Array | undefined>;
  /** Stores bytes, whole or not at all, instead of those that are there. */
  readonly put: (key: string, bytes: Uint8Array) => Promise<void>;
  /** Removes a key, if it exists. */
  readonly remove: (key: string) => Promise<void>;
}

/** Tasks that run side by side, and perhaps one behind them. */
export interface TaskFlow {
  /** Hash that names the machines whose results are the same: those of one model and one arithmetic. */
  readonly machines: string;
  /** Hash of the plan that the tasks belong to. */
  readonly plan: string;
  readonly tasks: readonly string[];
  /** Name of the task behind them. @default none */
  readonly last?: string | undefined;
  /** Tells whether the result of `last` is stored, or those of all tasks. */
  readonly isDone: () => Promise<boolean>;
  readonly signal?: AbortSignal | undefined;
}
