import type { Piece } from "../generation/generate-all.ts";

export interface ChoiceReadMe {
  readonly read_me?: { readonly routes: readonly (number | null)[] };
}

/** Where the tokens of a piece go; a choice's last token goes to no expert. */
export function routesOf({ tokens }: Piece, isIncluded: boolean): ChoiceReadMe {
  if (!isIncluded || tokens.length === 0) return {};
  return { read_me: { routes: tokens.map(({ expert }) => expert ?? null) } };
}

export function joinRoutes(chunks: readonly ChoiceReadMe[], isIncluded: boolean): ChoiceReadMe {
  return isIncluded ? { read_me: { routes: chunks.flatMap((chunk) => chunk.read_me?.routes ?? []) } } : {};
}

/** An end token says that the text is over; it is no part of it. */
export function shownTokens({ tokens, finishReason, stop }: Piece): Piece["tokens"] {
  return finishReason === "stop" && stop === undefined ? tokens.slice(0, -1) : tokens;
}
