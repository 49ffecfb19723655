// Room for files and batches. Pure functions over what is there.

/** A file of a store, as far as limits go. */
interface Held {
  readonly client: string;
  readonly bytes: number;
}

/** Most files and bytes of a store, and the share of one client. */
export interface FileLimits {
  readonly maxFiles: number;
  readonly maxBytes: number;
  readonly maxClientShare: number;
}

/**
 * Finds what a store has no room for.
 *
 * @param held - files that are there or arriving, without the new one
 * @param bytes - those of the new file so far
 * @returns a word for it, or `undefined` where there is room
 */
export function missingRoom(
  held: readonly Held[],
  { client, bytes }: Held,
  { maxFiles, maxBytes, maxClientShare }: FileLimits,
): "files" | "bytes" | undefined {
  const own = held.filter((file) => file.client === client);
  if (held.length >= maxFiles || own.length >= Math.ceil(maxFiles * maxClientShare)) return "files";
  const total = (files: readonly Held[]): number => files.reduce((sum, file) => sum + file.bytes, bytes);
  return total(held) > maxBytes || total(own) > maxBytes * maxClientShare ? "bytes" : undefined;
}

/** Most files that arrive at once, and the share of one client. */
export interface UploadLimits {
  readonly maxUploads: number;
  readonly maxClientShare: number;
}

/**
 * Tells whether one more file may arrive. A client has at most its share of the places that the others leave free, so
 * that not even several clients together can take all places.
 *
 * @param arriving - the clients of the files that are arriving
 * @returns whose files are too many, or `undefined` where there is a place
 */
export function uploadOverflow(
  arriving: readonly string[],
  client: string,
  { maxUploads, maxClientShare }: UploadLimits,
): "all" | "client" | undefined {
  if (arriving.length >= maxUploads) return "all";
  const numOwn = arriving.filter((one) => one === client).length;
  const numLeft = maxUploads - (arriving.length - numOwn);
  return numOwn >= Math.ceil(numLeft * maxClientShare) ? "client" : undefined;
}

/** A batch of a store, as far as limits go. */
interface HeldBatch {
  readonly id: string;
  readonly client: string;
  readonly createdAt: number;
  /** Time at which it ended, in seconds since 1970; `undefined` while it has not. */
  readonly endedAt: number | undefined;
}

/** Most batches of a store, and how long it keeps them. */
export interface BatchLimits {
  readonly maxBatches: number;
  readonly maxClientShare: number;
  readonly maxAgeSeconds: number;
}

/** Selects the ended batches that are too old. */
export function agedBatches(
  held: readonly HeldBatch[],
  nowSeconds: number,
  { maxAgeSeconds }: BatchLimits,
): readonly string[] {
  return held.filter(({ endedAt = Infinity }) => endedAt + maxAgeSeconds <= nowSeconds).map(({ id }) => id);
}

/**
 * Selects the ended batches that leave for one more of a client: the client's oldest if it has its share, else the
 * oldest of all.
 *
 * @returns `undefined` if too many have not ended
 */
export function displacedBatches(
  held: readonly HeldBatch[],
  client: string,
  { maxBatches, maxClientShare }: BatchLimits,
): readonly string[] | undefined {
  const own = held.filter((batch) => batch.client === client);
  const ofClient = overflow(own, Math.ceil(maxBatches * maxClientShare));
  const left = held.filter(({ id }) => !ofClient?.includes(id));
  const others = overflow(left, maxBatches);
  return ofClient && others && [...ofClient, ...others];
}

/** Selects the oldest ended batches that leave for one more. */
function overflow(held: readonly HeldBatch[], most: number): readonly string[] | undefined {
  const excess = held.length + 1 - most;
  if (excess <= 0) return [];
  const ended = held.filter(({ endedAt }) => endedAt !== undefined).toSorted((a, b) => a.createdAt - b.createdAt);
  return ended.length < excess ? undefined : ended.slice(0, excess).map(({ id }) => id);
}
