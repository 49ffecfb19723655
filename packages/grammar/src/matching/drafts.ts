// Drafts: tokens that a grammar forces or makes probable, with the masks along them.

import { allowsToken, type AllowedTokens } from "@readme-moe/core";
import { JsonLayout } from "./json-layout.ts";
import type { TokenMatcher } from "./matchers.ts";
import type { TokenTable } from "./token-table.ts";

/** The library's state of a completion, as far as drafts need it. */
export interface DraftMatcher extends TokenMatcher {
  /** Finds the text that has to come next. */
  findJumpForwardString(): string;
  /** Accepts a text as one token. @returns whether the grammar allows it */
  _acceptString(text: string): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
  /** Whether an end token was accepted. */
  isTerminated(): boolean;
}

/** Facts and tools that drafts need besides a matcher. */
export interface DraftTools {
  readonly table: TokenTable;
  readonly eosTokenIds: readonly number[];
  readonly vocabSize: number;
  /** Clock in ms. */
  readonly now: () => number;
}

/** The draft that an asker wants. */
export interface WantedDraft {
  /** Tokens that the asker would draft. */
  readonly asked: Int32Array;
  /** Most tokens of the draft. */
  readonly most: number;
}

const MAX_DRAFT_CHARACTERS = 80;
/** Time after which a draft is not continued: masks of some grammars take long, and the sequence waits. */
const MAX_DRAFT_MS = 10;
/** Two letters, so that free text is known at once; then what JSON has outside strings, with 1 and 0 for all digits. */
const PROBED = Array.from('ab"{}[],:10tfn');

/**
 * Finds the allowed tokens. The draft is the text that the grammar forces, with probable blanks in it where the grammar
 * allows any; if there is none, the beginning of `asked` as far as it is allowed. End tokens are drafted only where
 * nothing else is allowed.
 *
 * @param matcher - after `tokenIds`; it is the same afterwards
 */
export async function draftAllowed(
  matcher: DraftMatcher,
  tokenIds: Int32Array,
  { asked, most }: WantedDraft,
  { table, eosTokenIds, vocabSize, now }: DraftTools,
): Promise<AllowedTokens> {
  const endMs = now() + MAX_DRAFT_MS;
  const maskNow = async (): Promise<Int32Array> =>
    matcher.isTerminated() ? endsMask(eosTokenIds, vocabSize) : matcher.getNextTokenBitmask();
  const masks = [await maskNow()];
  const draft: number[] = [];
  let numForced = 0;
  const text = most === 0 || matcher.isTerminated() ? "" : probableText(matcher, () => table.textOf(tokenIds));
  const probable = text === "" ? asked : table.tokenize(text);
  for (let index = 0; draft.length < most && now() < endMs; index++) {
    const mask = masks.at(-1) as Int32Array;
    const only = onlyToken(mask);
    const next = only ?? (draft.length === index ? probable[index] : undefined);
    if (next === undefined || !allowsToken(mask, next)) break;
    if (only === undefined && eosTokenIds.includes(next)) break;
    // Nothing follows an end token, and the grammar has nothing to say about a second one.
    if (matcher.isTerminated() || !matcher.acceptToken(next)) break;
    if (only !== undefined && numForced === draft.length) numForced++;
    draft.push(next);
    masks.push(await maskNow());
  }
  if (draft.length > 0) matcher.rollBack(draft.length);
  return { draft: Int32Array.from(draft), numForced, masks };
}

/** Finds the text that has to come next, or that probably does where only blanks may differ. */
function probableText(matcher: DraftMatcher, before: () => string): string {
  let text = "";
  let numAccepted = 0;
  let layout: JsonLayout | undefined;
  const accept = (more: string): boolean => {
    if (more === "" || !acceptText(matcher, more)) return false;
    numAccepted++;
    text += more;
    layout?.read(more);
    return true;
  };
  while (text.length < MAX_DRAFT_CHARACTERS) {
    // The library may end a text within a character.
    if (accept(matcher.findJumpForwardString().replace(/\uFFFD+$/u, ""))) continue;
    const next = onlyCharacter(matcher);
    if (next === undefined) break;
    if (!layout) {
      layout = new JsonLayout();
      layout.read(before() + text);
    }
    const blanks = layout.blanksBefore(next);
    if (next === "1") {
      // Any digit may follow, and most vocabularies have no tokens of a blank and digits.
      accept(blanks);
      break;
    }
    if (!accept(blanks + next) && !accept(next)) break;
  }
  if (numAccepted > 0) matcher.rollBack(numAccepted);
  return text;
}

/** Accepts a text as one token. @returns whether the grammar allows it */
export function acceptText(matcher: DraftMatcher, text: string): boolean {
  // oxlint-disable-next-line no-underscore-dangle -- the library's name
  return matcher._acceptString(text);
}

/** Finds the only character of `PROBED` that may come next, where a blank may come as well; "1" for digits. */
function onlyCharacter(matcher: DraftMatcher): string | undefined {
  const mayCome = (character: string): boolean => {
    const isAllowed = acceptText(matcher, character);
    if (isAllowed) matcher.rollBack(1);
    return isAllowed;
  };
  if (!mayCome(" ")) return undefined;
  let only: string | undefined;
  for (const character of PROBED) {
    if (!mayCome(character)) continue;
    const kind = character === "0" ? "1" : character;
    if (only !== undefined && only !== kind) return undefined;
    only = kind;
  }
  return only;
}

/** Finds the token of a mask that allows one only. */
function onlyToken(mask: Int32Array): number | undefined {
  let only: number | undefined;
  for (let word = 0; word < mask.length; word++) {
    const bits = mask[word] as number;
    if (bits === 0) continue;
    if (only !== undefined || (bits & (bits - 1)) !== 0) return undefined;
    only = 32 * word + 31 - Math.clz32(bits);
  }
  return only;
}

/** Allows end tokens only: nothing else can follow an end token. */
function endsMask(eosTokenIds: readonly number[], vocabSize: number): Int32Array {
  const mask = new Int32Array(Math.ceil(vocabSize / 32));
  for (const id of eosTokenIds) mask[id >> 5] = (mask[id >> 5] ?? 0) | (1 << (id & 31));
  return mask;
}
