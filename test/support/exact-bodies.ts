// Bodies of answers for exact comparison: ids, times and durations are checked and replaced by placeholders.

/** Random parts of ids: UUIDs, and what follows a prefix such as `msg_`. */
const IDS =
  /[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|(?<=^[a-z_]+[_-])([0-9a-f]{32}|[0-9a-f]{24})$/g;

const SECONDS = new Set(["created", "created_at", "completed_at", "failed_at"]);
const DATES = new Set(["created_at", "modified_at"]);
const DURATIONS = /_duration$/;

/** A clock may go back a little between the answer and its check. */
const TOLERANCE_MS = 120_000;

/**
 * Replaces what differs between runs. Equal ids have equal placeholders, in the order of their first use. Times of
 * expiry are given from the creation of their object.
 *
 * @throws if a time is not about now, or a duration is negative
 */
export function exact(...bodies: readonly unknown[]): readonly unknown[] {
  const ids = new Map<string, number>();
  const idOf = (id: string): string => {
    if (!ids.has(id)) ids.set(id, ids.size + 1);
    return `#${ids.get(id)}`;
  };
  const replace = (name: string, value: unknown): unknown => {
    if (Array.isArray(value)) return value.map((one) => replace(name, one));
    if (typeof value === "object" && value !== null) {
      const { created_at: created } = value as { readonly created_at?: unknown };
      const after = (seconds: unknown): string => `created + ${Number(seconds) - Number(created)} s`;
      return Object.fromEntries(
        Object.entries(value).map(([key, one]: [string, unknown]) => [
          key,
          key === "expires_at" && typeof created === "number" ? after(one) : replace(key, one),
        ]),
      );
    }
    if (typeof value === "number" && SECONDS.has(name)) return about(name, value * 1000);
    if (typeof value === "string" && DATES.has(name)) return about(name, Date.parse(value));
    if (typeof value === "number" && DURATIONS.test(name)) {
      if (!(value >= 0)) throw new Error(`Expected \`${name}\` to be a duration, got ${value}`);
      return "duration";
    }
    return typeof value === "string" ? value.replace(IDS, idOf) : value;
  };
  return bodies.map((body) => replace("", body));
}

function about(name: string, ms: number): string {
  if (!(Math.abs(ms - Date.now()) < TOLERANCE_MS)) throw new Error(`Expected \`${name}\` to be now, got ${ms} ms`);
  return "now";
}
