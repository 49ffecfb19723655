import { setMaxListeners } from "node:events";
import {
  type AllowTokens,
  type AnswerFormat,
  checkAnswerFormat,
  describeValue,
  forbidOthers,
  type LogitsContext,
  type ProcessLogits,
} from "@readme-moe/core";
import { Budget, type GrammarSource, type GrammarText } from "./grammar-source.ts";
import type { MaskAnswer, MaskQuestion } from "./matching/protocol.ts";
import { leastLiteralLength, literal } from "./schema/ebnf/code-points.ts";
import { type SchemaGrammars, schemaGrammars, wholeGrammar } from "./schema/ebnf/schema-grammar.ts";
import { checkSchemaSizes, honouredSchema, type JsonSchema } from "./schema/honoured-schema.ts";
import { UNUSED_CHARACTER } from "./schema/keywords.ts";

/** Constraint that answers are bound to. It serves any number of concurrent requests. */
export interface Constraint {
  /**
   * Makes a `processLogits` for one request with any number of choices. It forbids every token after which the text
   * could no longer become a valid answer, and end tokens until the text is one. A text that is cut short is the
   * beginning of one. Engines use its property `allowTokens`: no logits are sent then, and text that the grammar forces
   * can run as one step. Its property `source` is for `openConstraint` in another process.
   */
  processor(options?: ProcessorOptions): ProcessLogits;
}

/** Options of a processor. */
export interface ProcessorOptions {
  /** Signal of the request: once it is aborted, an evicted grammar is not compiled again for the request. */
  readonly signal?: AbortSignal | undefined;
}

/** Finds the tokens that may come next. */
type AskMask = (question: MaskQuestion, signal: AbortSignal | undefined) => Promise<MaskAnswer>;

let numProcessors = 0;

/** @param source - plain data from which the constraint can be made again */
export function constraintOf(ask: AskMask, source: AnswerSource): Constraint {
  return {
    processor: ({ signal } = {}) => {
      const name = ++numProcessors;
      // Each waiting choice adds a listener; Node would take more than ten for a leak.
      if (signal) setMaxListeners(0, signal);
      // Every question has all tokens, so that a repeated question gets the same answer.
      const askFor = ({ tokenIds, promptTokens, choice }: LogitsContext, draft?: Int32Array): Promise<MaskAnswer> =>
        ask({ matcher: `${name}:${choice}`, tokenIds: tokenIds.slice(promptTokens), draft }, signal);
      const process: ProcessLogits = async (logits, context) => forbidOthers(logits, (await askFor(context)).masks);
      const allowTokens: AllowTokens = async (context) => {
        const { draft, numForced, masks } = await askFor(context, context.draft);
        const words = masks.length / (1 + draft.length);
        const rows = Array.from({ length: 1 + draft.length }, (_, row) =>
          masks.subarray(row * words, (row + 1) * words),
        );
        return { draft, numForced, masks: rows };
      };
      return Object.assign(process, { allowTokens, source });
    },
  };
}

// Constraints as plain JSON data, from which another process makes the same ones.

/** Source of what `Grammars` binds answers to: the method's arguments. */
export type AnswerSource =
  | { readonly kind: "json"; readonly schema: JsonSchema; readonly maxWhitespace: number }
  | { readonly kind: "grammar"; readonly ebnf: string; readonly root: string }
  | { readonly kind: "regex"; readonly pattern: string }
  | { readonly kind: "choice"; readonly texts: readonly string[] }
  | { readonly kind: "tagged"; readonly answers: TaggedAnswers };

/** Copies a source as JSON does, so that later changes of a caller's objects do not reach it. */
export function plainCopy(source: AnswerSource): AnswerSource {
  return JSON.parse(JSON.stringify(source)) as AnswerSource;
}

/** Most blanks in a row between two parts of JSON, where nothing else is asked for. */
export const DEFAULT_MAX_WHITESPACE = 16;

/**
 * Describes a format as the source of the constraint that `Grammars.format` makes.
 * @throws {TypeError} on a wrong shape
 */
export function formatSource(format: AnswerFormat): AnswerSource {
  checkAnswerFormat(format);
  switch (format.type) {
    case "json_object":
      return { kind: "json", schema: { type: "object" }, maxWhitespace: DEFAULT_MAX_WHITESPACE };
    case "json_schema":
      return { kind: "json", schema: format.schema, maxWhitespace: DEFAULT_MAX_WHITESPACE };
    case "regex":
      return { kind: "regex", pattern: format.pattern };
    case "choice":
      return { kind: "choice", texts: format.choices };
    case "grammar":
      return { kind: "grammar", ebnf: format.grammar, root: format.root ?? "root" };
    default:
      throw new TypeError(`Unknown format: ${String(format satisfies never)}`);
  }
}

/** Stands for the beginning of the answer in triggers and tags that have to be at the beginning. */
export const ANSWER_START: string = UNUSED_CHARACTER;

/** Fixed texts before and behind JSON. */
export interface Tag {
  readonly begin: string;
  readonly end: string;
}

/** JSON that is valid under a schema, between two fixed texts. */
export interface TaggedJson extends Tag {
  readonly schema: JsonSchema;
  /** Other texts that may be around the same JSON. @default none */
  readonly others?: readonly Tag[] | undefined;
  /** Name of the schema in messages. @default none */
  readonly name?: string | undefined;
  /** Schema that is used if `schema` is not supported. @default that is refused */
  readonly fallback?: JsonSchema | undefined;
}

/** Answers with JSON between fixed texts, such as tool calls, with or without free text around them. */
export interface TaggedAnswers {
  readonly tags: readonly TaggedJson[];
  /**
   * Allows free text before, between and after tags. Once `trigger`, or one of several, appears in it, a tag that
   * begins with it has to follow. A trigger, and its tags, may begin with `ANSWER_START`.
   */
  readonly trigger?: string | readonly string[] | undefined;
  /** Text between two tags where there is no free text. @default "\n" */
  readonly separator?: string | undefined;
  /** Ends the answer after the first tag. @default false */
  readonly isSingle?: boolean | undefined;
}

/** Describes the answers by a grammar. @throws as `honouredSchema` */
export function taggedSource(answers: TaggedAnswers): GrammarSource {
  const { tags, trigger = [], separator = "\n" } = answers;
  if (!Array.isArray(tags) || tags.length === 0) {
    throw new TypeError(`Expected \`tags\` to be a list of at least one tag, got ${describeValue(tags)}`);
  }
  const budget = new Budget();
  const around = allTags(answers).flatMap(({ begin, end }) => [begin, end]);
  const triggers = [trigger].flat();
  const fixed: readonly unknown[] = [...triggers, separator, ...around];
  for (const text of fixed) {
    if (typeof text !== "string") throw new TypeError(`Expected texts around schemas, got ${describeValue(text)}`);
    budget.write(leastLiteralLength(text));
  }
  // Beginnings are compared with each other.
  budget.spend((around.length * (around.length + triggers.length)) / 64);
  checkSchemaSizes(tags.flatMap(({ schema, fallback }) => (fallback === undefined ? schema : [schema, fallback])));
  const grammars = tags.map((tag, index) => tagGrammars(tag, budget, tagPrefix(index)));
  const root = rootRules(answers);
  const grammarOf = (schemas: readonly { readonly text: string }[]): GrammarText =>
    wholeGrammar([root, ...schemas.map(({ text }) => text)].join("\n"), DEFAULT_MAX_WHITESPACE);
  const exact: GrammarSource = {
    ...grammarOf(grammars),
    ...(triggers.some((text) => text.startsWith(ANSWER_START)) && { before: ANSWER_START }),
  };
  const wide = grammars.flatMap((one) => one.wide ?? []);
  const areWide = wide.length === grammars.length && wide.some(({ hadBounds }) => hadBounds);
  if (!areWide || mayMix(answers)) return exact;
  return { ...exact, wide: { grammar: grammarOf(wide), hasPatterns: wide.some(({ hasPatterns }) => hasPatterns) } };
}

/** Writes the grammars of a tag's JSON. @throws as `honouredSchema`, with the tag's name */
function tagGrammars({ schema, name, fallback }: TaggedJson, budget: Budget, prefix: string): SchemaGrammars {
  const write = (one: JsonSchema): SchemaGrammars => schemaGrammars(honouredSchema(one, budget), budget, prefix);
  try {
    return write(schema);
  } catch (error) {
    const isRange = error instanceof RangeError;
    if (!isRange && !(error instanceof TypeError)) throw error;
    if (fallback !== undefined) return write(fallback);
    if (name === undefined) throw error;
    const named = `${name}: ${error.message}`;
    throw isRange ? new RangeError(named, { cause: error }) : new TypeError(named, { cause: error });
  }
}

/** Whether the text may be in two tags at once. */
function mayMix(answers: TaggedAnswers): boolean {
  const tags = allTags(answers);
  return tags.some(({ begin }, index) => tags.some((other, at) => at !== index && other.begin.startsWith(begin)));
}

/** Lists the texts around each tag, with the name of the rule between them. */
function allTags({ tags }: TaggedAnswers): readonly (Tag & { readonly content: string })[] {
  return tags.flatMap((tag, index) =>
    [tag, ...(tag.others ?? [])].map(({ begin, end }) => ({ begin, end, content: `${tagPrefix(index)}root` })),
  );
}

const tagPrefix = (index: number): string => `tag${index}_`;

/**
 * Lists triggers, and each of them behind the beginning of another one. `TagDispatch` needs the latter, since behind a
 * beginning that goes on otherwise it forgets what it has read (mended in xgrammar after 0.1.27).
 *
 * @returns texts, none of which begins with another one, and the number of the trigger at the end of each
 * @throws {TypeError} for triggers that may overlap without end, such as `aab` after `a`
 */
function withOverlaps(triggers: readonly string[]): readonly { readonly text: string; readonly last: number }[] {
  const byStart = new Map<number | undefined, number[]>();
  for (const [index, text] of triggers.entries()) {
    byStart.set(firstByte(text), [...(byStart.get(firstByte(text)) ?? []), index]);
  }
  const found = new Map(triggers.map((text, index) => [text, index]));
  const most = 4 * triggers.length + 64;
  for (const text of found.keys()) {
    let at = 0;
    for (const character of text) {
      for (const last of at === 0 ? [] : (byStart.get(firstByte(character)) ?? [])) {
        const longer = `${text.slice(0, at)}${triggers[last] ?? ""}`;
        if (!longer.startsWith(text) && !found.has(longer)) found.set(longer, last);
      }
      at += character.length;
    }
    if (found.size > most) throw new TypeError("Expected triggers that do not overlap again and again");
  }
  const all = Array.from(found, ([text, last]) => ({ text, last }));
  return all.filter(({ text }) => !beginsWithAnother(text, found));
}

function beginsWithAnother(text: string, texts: ReadonlyMap<string, unknown>): boolean {
  for (let length = 1; length < text.length; length++) if (texts.has(text.slice(0, length))) return true;
  return false;
}

/** Returns the first byte in UTF-8, which characters that are not the same may share. */
function firstByte(text: string): number | undefined {
  return Buffer.from(text.slice(0, 2))[0];
}

/** Writes the rules around those of the tags. @throws {TypeError} for tags and triggers that do not belong together */
function rootRules(answers: TaggedAnswers): string {
  const { trigger, separator = "\n", isSingle = false } = answers;
  const tags = allTags(answers);
  const choiceOf = (some: typeof tags, from = 0): string =>
    some.map(({ begin, content, end }) => `${literal(begin.slice(from))} ${content} ${literal(end)}`).join(" | ");
  if (trigger === undefined) {
    return `root ::= ${isSingle ? "tag" : `tag (${literal(separator)} tag)*`}\ntag ::= ${choiceOf(tags)}`;
  }
  const triggers = [...new Set([trigger].flat())];
  const behind = triggers.map((text) => tags.filter(({ begin }) => begin.startsWith(text)));
  const alone = triggers.find((_, index) => behind[index]?.length === 0);
  if (alone !== undefined || tags.some((tag) => behind.every((some) => !some.includes(tag)))) {
    throw new TypeError("Expected each trigger to begin a tag, and each tag to begin with a trigger");
  }
  const found = withOverlaps(triggers);
  const pairs = found.map(({ text }, index) => `(${literal(text)}, trigger${index})`);
  const rules = found.map(({ text, last }, index) => {
    const { length } = triggers[last] ?? "";
    const whole = tags.filter((tag) => length < text.length && tag.begin.startsWith(text));
    const choices = [choiceOf(behind[last] ?? [], length), choiceOf(whole, text.length)];
    return `trigger${index} ::= ${choices.filter((choice) => choice !== "").join(" | ")}`;
  });
  const dispatch = `TagDispatch(${pairs.join(", ")}, stop_eos=true, loop_after_dispatch=${!isSingle})`;
  return [`root ::= ${dispatch}`, ...rules].join("\n");
}
