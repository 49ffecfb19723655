// Pages of lists that clients read part by part.

import { z } from "zod";
import { type ApiError, invalid } from "./errors.ts";
import type { Incoming } from "./request.ts";

/** Makes the schema of a page. */
export const pageAnswer = <Item extends z.ZodType>(item: Item) =>
  z.strictObject({
    object: z.literal("list"),
    data: z.array(item),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });

/** Part of a list that a client asks for. */
export interface Page {
  readonly limit: number;
  /** Whether the oldest item comes first. */
  readonly isAscending: boolean;
  /** Id of the item before the first one. */
  readonly after: string | undefined;
}

interface PageLimits {
  readonly most: number;
  readonly usual: number;
}

/** Reads `limit`, `order` and `after`. @throws {ApiError} 400 */
export function pageOf({ query }: Incoming, { most, usual }: PageLimits): Page {
  const { limit = String(usual), order = "desc", after } = query;
  const count = typeof limit === "string" && /^\d{1,5}$/.test(limit) ? Number(limit) : 0;
  if (count < 1 || count > most) throw invalid("limit", `expected an integer from 1 to ${most}`);
  if (order !== "asc" && order !== "desc") throw invalid("order", "expected asc or desc");
  if (after !== undefined && typeof after !== "string") throw invalid("after", "expected the id of an item");
  return { limit: count, isAscending: order === "asc", after };
}

/**
 * Returns a page of a list.
 *
 * @param items - the oldest first
 * @param unknown - creates the error of an `after` that the list does not have
 */
export function listPage(
  items: readonly { readonly id: string }[],
  { limit, isAscending, after }: Page,
  unknown: (id: string) => ApiError,
): object {
  const ordered = isAscending ? items : items.toReversed();
  const start = after === undefined ? 0 : ordered.findIndex(({ id }) => id === after) + 1;
  if (after !== undefined && start === 0) throw unknown(after);
  const data = ordered.slice(start, start + limit);
  const ids = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
  return { object: "list", data, ...ids, has_more: start + limit < ordered.length };
}
