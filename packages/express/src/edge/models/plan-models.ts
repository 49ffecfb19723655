// Decides which models are opened and closed, where not all of them fit into memory at once. Pure functions over plain
// data; times are monotonic, in ms.

/** A model that is opened when it is asked for. */
export interface OnDemandState {
  readonly name: string;
  /** Memory that it takes from the beginning of its opening to the end of its closing. */
  readonly bytes: number;
  readonly phase: "closed" | "opening" | "open" | "closing";
  /** Requests that use it. */
  readonly numUses: number;
  /** Time since which requests wait for it; `undefined` if none waits. */
  readonly waitingSinceMs: number | undefined;
  /** Time at which it was last opened. */
  readonly openedMs: number;
  /** Time at which the last request left it, or at which it was opened. */
  readonly usedMs: number;
  /** Time without requests after which it is closed; `Infinity` for never. */
  readonly keepAliveMs: number;
}

export interface ModelsLimits {
  /** Memory of all models together; no model alone takes more. */
  readonly memoryBytes: number;
  /** Time for which a model that has requests keeps its memory at least, when others wait for it. */
  readonly turnMs: number;
}

export interface ModelsPlan {
  readonly open: readonly string[];
  /** Models without requests to close. */
  readonly close: readonly string[];
  /** Models that take no new requests: others wait for their memory, and their turn is over. */
  readonly yielding: readonly string[];
  /** Time at which to plan again if nothing happens until then; `Infinity` for never. */
  readonly nextMs: number;
}

/**
 * Plans what to do now. Requests wait in the order of the first request for each model, and no later one goes ahead, so
 * that each is served after a finite time. Memory comes from models without requests, the least recently used first,
 * then from those that have had their turn, the longest open first, as soon as their running requests have ended.
 */
export function planModels(
  models: readonly OnDemandState[],
  { memoryBytes, turnMs }: ModelsLimits,
  nowMs: number,
): ModelsPlan {
  const idle = models.filter((model) => model.phase === "open" && isIdle(model));
  const expired = idle.filter(({ usedMs, keepAliveMs }) => nowMs - usedMs >= keepAliveMs);
  const [open, close, yielding] = [[] as string[], expired.map(({ name }) => name), [] as string[]];
  let nextMs = Math.min(...idle.filter((one) => !expired.includes(one)).map((one) => one.usedMs + one.keepAliveMs));
  let heldBytes = sumOf(models.filter(({ phase }) => phase !== "closed"));
  const waiting = models
    .filter(({ phase, waitingSinceMs }) => phase === "closed" && waitingSinceMs !== undefined)
    .toSorted((a, b) => (a.waitingSinceMs ?? 0) - (b.waitingSinceMs ?? 0));
  for (const { name, bytes } of waiting) {
    if (heldBytes + bytes <= memoryBytes) {
      open.push(name);
      heldBytes += bytes;
      continue;
    }
    const comingBytes = sumOf(models.filter((one) => one.phase === "closing" || close.includes(one.name)));
    let missingBytes = heldBytes - comingBytes + bytes - memoryBytes;
    for (const victim of victimsOf(models.filter((one) => !close.includes(one.name)))) {
      if (missingBytes <= 0) break;
      const turnEndsMs = victim.openedMs + turnMs;
      const hasTurn = !isIdle(victim) && nowMs < turnEndsMs;
      if (hasTurn) nextMs = Math.min(nextMs, turnEndsMs);
      // Requests that wait for a model that yields come after those that wait for its memory.
      else if (victim.numUses === 0) close.push(victim.name);
      else yielding.push(victim.name);
      missingBytes -= victim.bytes;
    }
    break;
  }
  return { open, close, yielding, nextMs };
}

/** Lists open models in the order in which they give up their memory. */
function victimsOf(models: readonly OnDemandState[]): readonly OnDemandState[] {
  const open = models.filter(({ phase }) => phase === "open");
  const [idle, busy] = [open.filter(isIdle), open.filter((model) => !isIdle(model))];
  return [...idle.toSorted((a, b) => a.usedMs - b.usedMs), ...busy.toSorted((a, b) => a.openedMs - b.openedMs)];
}

/** Whether no request uses a model, or is about to. */
function isIdle({ numUses, waitingSinceMs }: OnDemandState): boolean {
  return numUses === 0 && waitingSinceMs === undefined;
}

function sumOf(models: readonly OnDemandState[]): number {
  return models.reduce((sum, { bytes }) => sum + bytes, 0);
}
