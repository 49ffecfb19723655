// Rate limits whose counts all fronts share. While Valkey does not answer, each front counts for itself.

import { integerOption } from "@readme-moe/core";
import { RateLimiterMemory, RateLimiterRedis, type RateLimiterAbstract } from "rate-limiter-flexible";
import { addressOf, openConnection, type FleetPlace } from "../connect.ts";
import { PREFIX } from "../keys.ts";

/** Unit of a rate limit. */
export type LimitUnit = "requests" | "tokens";

/** Options of `openSharedLimits`. */
export interface SharedLimitsOptions extends FleetPlace {
  /** Requests per minute of a client at all fronts together. @default no limit */
  readonly requestsPerMinute?: number | undefined;
  /** Tokens per minute of a client at all fronts together. @default no limit */
  readonly tokensPerMinute?: number | undefined;
  /** Longest wait for a count of Valkey, in ms. @default 500 */
  readonly commandMs?: number | undefined;
  /** Called each time that this front counts for itself, since Valkey does not answer. */
  readonly onLocal?: ((unit: LimitUnit) => void) | undefined;
}

/** Limiters for `readMe({ requestsPerMinute, tokensPerMinute })`. */
export interface SharedLimits {
  readonly requestsPerMinute: RateLimiterAbstract | undefined;
  readonly tokensPerMinute: RateLimiterAbstract | undefined;
  readonly close: () => void;
}

const [COMMAND_MS, MINUTE_SECONDS] = [500, 60] as const;

/**
 * Opens rate limits that all fronts of a fleet share. Clients are told apart by their names, so every front needs the
 * same keys in the same order, or under the same names.
 *
 * @throws {TypeError | RangeError} on a wrong URL or limit
 */
export function openSharedLimits(options: SharedLimitsOptions): SharedLimits {
  const { fleet, onError, onLocal = () => undefined, commandMs = COMMAND_MS } = options;
  const numbers: Readonly<Record<LimitUnit, number | undefined>> = {
    requests: options.requestsPerMinute,
    tokens: options.tokensPerMinute,
  };
  const address = addressOf(fleet);
  for (const [unit, points] of Object.entries(numbers)) {
    if (points !== undefined) integerOption(`${unit}PerMinute`, points, 1);
  }
  const { redis, close } = openConnection(address, onError, { commandMs });
  const limiterOf = (unit: LimitUnit): RateLimiterAbstract | undefined => {
    const points = numbers[unit];
    if (points === undefined) return undefined;
    const limit = { points, duration: MINUTE_SECONDS, keyPrefix: `${PREFIX}:limit:${unit}` };
    const insuranceLimiter = new LocalLimiter(limit, () => onLocal(unit));
    return new RateLimiterRedis({ ...limit, storeClient: redis, rejectIfRedisNotReady: true, insuranceLimiter });
  };
  return { requestsPerMinute: limiterOf("requests"), tokensPerMinute: limiterOf("tokens"), close };
}

/** Counts in this process, and says so each time. */
class LocalLimiter extends RateLimiterMemory {
  readonly #onUse: () => void;

  constructor(limit: ConstructorParameters<typeof RateLimiterMemory>[0], onUse: () => void) {
    super(limit);
    this.#onUse = onUse;
  }

  override consume(...args: Parameters<RateLimiterMemory["consume"]>): ReturnType<RateLimiterMemory["consume"]> {
    this.#onUse();
    return super.consume(...args);
  }

  override get(...args: Parameters<RateLimiterMemory["get"]>): ReturnType<RateLimiterMemory["get"]> {
    this.#onUse();
    return super.get(...args);
  }
}
