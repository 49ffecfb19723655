// Constraints from their sources, which may come over a network.

import {
  describeValue,
  integerOption,
  rejectUnknownKeys,
  type ConstraintSource,
  type EngineInfo,
  type ProcessLogits,
} from "@readme-moe/core";
import type { AnswerSource, Tag, TaggedAnswers, TaggedJson } from "./constraint.ts";
import type { Grammars } from "./grammars.ts";
import { resolveAsker, type Asker } from "./grammars-options.ts";
import { limitReasoning, type ReasoningSource } from "./reasoning-limit.ts";
import type { JsonSchema } from "./schema/honoured-schema.ts";

/** Surroundings in which a constraint is opened. */
export interface ConstraintSurroundings extends Asker {
  /** Engine whose answers are bound; its end tokens and its vocabulary count, whatever the source says. */
  readonly engine: { readonly info: Pick<EngineInfo, "vocabSize" | "eosTokenIds"> };
  /** Grammars of this engine, or a function that opens them when they are needed. */
  readonly grammars: Grammars | (() => Promise<Grammars>);
}

/** Largest number of tokens that are forced behind reasoning. */
const MAX_FORCED_TOKENS = 64;

const FIELDS = {
  json: ["schema", "maxWhitespace"],
  grammar: ["ebnf", "root"],
  regex: ["pattern"],
  choice: ["texts"],
  tagged: ["answers"],
  reasoning: ["beginId", "endId", "isOpen", "budgetTokens", "closingIds", "gapIds", "bound"],
} as const satisfies {
  readonly [Kind in (AnswerSource | ReasoningSource)["kind"]]: readonly Exclude<
    keyof Extract<AnswerSource | ReasoningSource, { kind: Kind }>,
    "kind"
  >[];
};

/**
 * Makes the function that `processLogits.source` describes, for one request. The source may come from anyone: it is
 * checked as a caller's own arguments are, within the same limits of size, time and memory, and the function does
 * nothing but forbid tokens.
 *
 * @param source - a value that was JSON
 * @throws {TypeError | RangeError} naming the field that is wrong; otherwise as `Grammars.jsonSchema`
 */
export async function openConstraint(
  source: unknown,
  { engine, grammars, ...options }: ConstraintSurroundings,
): Promise<ProcessLogits> {
  const asker = resolveAsker(options);
  const fields = checkedFields("source", source);
  if (fields["kind"] === "reasoning") {
    const { bound, ...rule } = fields;
    const inner = bound === undefined ? undefined : checkedFields("source.bound", bound);
    if (inner?.["kind"] === "reasoning") throw wrong("source.bound.kind", "another kind than reasoning", "reasoning");
    const checked = reasoningRule(rule, engine.info);
    return limitReasoning({
      ...checked,
      bound: inner && (await bind(inner, "source.bound", grammars, asker)),
    });
  }
  return bind(fields, "source", grammars, asker);
}

type Fields = Readonly<Record<string, unknown>>;

/** Checks the kind of a source, and that it has no fields of other kinds. */
function checkedFields(name: string, source: unknown): Fields {
  if (typeof source !== "object" || source === null) throw wrong(name, "{ kind, … }", source);
  const { kind } = source as ConstraintSource;
  if (typeof kind !== "string" || !Object.hasOwn(FIELDS, kind)) {
    throw wrong(`${name}.kind`, `one of ${Object.keys(FIELDS).join(", ")}`, kind);
  }
  rejectUnknownKeys(`\`${name}\``, source, ["kind", ...FIELDS[kind as keyof typeof FIELDS]]);
  return source as unknown as Fields;
}

/** Compiles the grammar of a source. `Grammars` checks the values of fields as it checks a caller's. */
async function bind(
  fields: Fields,
  name: string,
  grammars: ConstraintSurroundings["grammars"],
  asker: Asker,
): Promise<ProcessLogits> {
  const opened = typeof grammars === "function" ? await grammars() : grammars;
  // A wrong type is refused by the method that gets the value.
  const source = fields as unknown as AnswerSource;
  const constraint = await opened.source(
    source.kind === "tagged" ? { ...source, answers: taggedAnswers(`${name}.answers`, source.answers) } : source,
    asker,
  );
  return constraint.processor({ signal: asker.signal });
}

/** Checks the shape of tagged answers, which callers in TypeScript cannot get wrong. */
function taggedAnswers(name: string, answers: unknown): TaggedAnswers {
  if (typeof answers !== "object" || answers === null) throw wrong(name, "{ tags, … }", answers);
  rejectUnknownKeys(`\`${name}\``, answers, ["tags", "trigger", "separator", "isSingle"]);
  const { tags, trigger, separator, isSingle } = answers as { readonly [Field in keyof TaggedAnswers]?: unknown };
  if (!Array.isArray(tags)) throw wrong(`${name}.tags`, "a list of { begin, schema, end }", tags);
  if (isSingle !== undefined && typeof isSingle !== "boolean")
    throw wrong(`${name}.isSingle`, "true or false", isSingle);
  return {
    tags: tags.map((tag: unknown, index) => taggedJson(`${name}.tags[${index}]`, tag)),
    trigger: trigger === undefined ? undefined : checkedTexts(`${name}.trigger`, trigger),
    separator: separator === undefined ? undefined : checkedText(`${name}.separator`, separator),
    isSingle,
  };
}

function taggedJson(name: string, tag: unknown): TaggedJson {
  if (typeof tag !== "object" || tag === null) throw wrong(name, "{ begin, schema, end }", tag);
  rejectUnknownKeys(`\`${name}\``, tag, ["begin", "schema", "end", "others", "name", "fallback"]);
  const { schema, others, name: own, fallback } = tag as { readonly [Field in keyof TaggedJson]?: unknown };
  if (others !== undefined && !Array.isArray(others)) throw wrong(`${name}.others`, "a list of { begin, end }", others);
  return {
    ...tagOf(name, tag),
    schema: schema as JsonSchema,
    others: others?.map((other: unknown, index) => tagOf(`${name}.others[${index}]`, other)),
    name: own === undefined ? undefined : checkedText(`${name}.name`, own),
    fallback: fallback as JsonSchema | undefined,
  };
}

function tagOf(name: string, tag: unknown): Tag {
  if (typeof tag !== "object" || tag === null) throw wrong(name, "{ begin, end }", tag);
  const { begin, end } = tag as { readonly [Field in keyof Tag]?: unknown };
  return { begin: checkedText(`${name}.begin`, begin), end: checkedText(`${name}.end`, end) };
}

function checkedTexts(name: string, value: unknown): string | readonly string[] {
  if (!Array.isArray(value)) return checkedText(name, value);
  return value.map((text: unknown, index) => checkedText(`${name}[${index}]`, text));
}

function checkedText(name: string, value: unknown): string {
  if (typeof value !== "string") throw wrong(name, "a text", value);
  return value;
}

function reasoningRule(
  { isOpen, budgetTokens, ...fields }: Fields,
  { vocabSize, eosTokenIds }: Pick<EngineInfo, "vocabSize" | "eosTokenIds">,
) {
  const idOf = (name: string, value: unknown): number => integerOption(`source.${name}`, value, 0, vocabSize - 1);
  const idsOf = (name: string): readonly number[] => {
    const ids = fields[name];
    if (!Array.isArray(ids)) throw wrong(`source.${name}`, "a list of token ids", ids);
    if (ids.length > MAX_FORCED_TOKENS) {
      throw new RangeError(
        `Expected \`source.${name}\` to have at most ${MAX_FORCED_TOKENS} tokens, got ${ids.length}`,
      );
    }
    return ids.map((id: unknown, index) => idOf(`${name}[${index}]`, id));
  };
  if (typeof isOpen !== "boolean") throw wrong("source.isOpen", "true or false", isOpen);
  const endId = idOf("endId", fields["endId"]);
  const closingIds = idsOf("closingIds");
  if (!closingIds.includes(endId)) throw wrong("source.closingIds", "a list with `endId`", closingIds.join());
  return {
    vocabSize,
    eosTokenIds,
    beginId: idOf("beginId", fields["beginId"]),
    endId,
    isOpen,
    budgetTokens: budgetTokens === undefined ? undefined : integerOption("source.budgetTokens", budgetTokens, 0),
    closingIds,
    gapIds: idsOf("gapIds"),
  };
}

function wrong(name: string, expected: string, value: unknown): TypeError {
  return new TypeError(`Expected \`${name}\` to be ${expected}, got ${describeValue(value)}`);
}
