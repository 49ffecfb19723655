import {
  type AnswerFormat,
  describeValue,
  type EngineVocabulary,
  integerOption,
  rejectUnknownKeys,
  PatternError,
} from "@readme-moe/core";
import {
  type AnswerSource,
  type Constraint,
  constraintOf,
  DEFAULT_MAX_WHITESPACE,
  formatSource,
  plainCopy,
  type TaggedAnswers,
  taggedSource,
} from "./constraint.ts";
import {
  Budget,
  type GrammarSource,
  type GrammarText,
  keyedSource,
  MAX_SOURCE_CHARACTERS,
  sourceTooLong,
} from "./grammar-source.ts";
import {
  type Asker,
  ASKER_NAMES,
  type GrammarsOptions,
  resolveAsker,
  resolveGrammarsOptions,
} from "./grammars-options.ts";
import { GrammarCache } from "./matching/grammar-cache.ts";
import { leastLiteralLength, literal, plainCharacter } from "./schema/ebnf/code-points.ts";
import { PatternWriter } from "./schema/ebnf/pattern-parser.ts";
import { schemaGrammars, wholeGrammar } from "./schema/ebnf/schema-grammar.ts";
import { checkSchemaSizes, honouredSchema, type JsonSchema } from "./schema/honoured-schema.ts";

/** Options of answers in JSON. */
export interface JsonOptions extends Asker {
  /**
   * Most blanks, tabs and line ends in a row between two parts of the JSON; strings may hold any number. @default 16
   */
  readonly maxWhitespace?: number | undefined;
}

/**
 * Binds answers of one model to JSON, JSON schemas, regular expressions and grammars.
 *
 * Each grammar is compiled and matched in a thread of its own: the event loop stays free, and a grammar that takes
 * too long or too much memory ends without harm to others. Grammars are cached by their source. Schemas and
 * patterns are read on the caller's event loop, within limits that keep it short.
 */
export class Grammars implements AsyncDisposable {
  readonly #cache: GrammarCache;

  private constructor(cache: GrammarCache) {
    this.#cache = cache;
  }

  /**
   * Opens the grammars of one model.
   *
   * @param source - an engine, or the result of its `vocabulary()`
   * @throws {TypeError | RangeError} on wrong options, and for a model without end tokens
   */
  static async open(
    source: EngineVocabulary | { vocabulary(): Promise<EngineVocabulary> },
    options: GrammarsOptions = {},
  ): Promise<Grammars> {
    const limits = resolveGrammarsOptions(options);
    const vocabulary = "offsets" in source ? source : await source.vocabulary();
    if (vocabulary.eosTokenIds.length > 0) return new Grammars(new GrammarCache(vocabulary, limits));
    throw new TypeError("Expected a model with an end token: without one an answer cannot end");
  }

  /** Binds answers to any JSON object. @throws as `jsonSchema` */
  jsonObject(options: JsonOptions = {}): Promise<Constraint> {
    return this.jsonSchema({ type: "object" }, options);
  }

  /**
   * Binds answers to JSON that is valid under a schema. Objects have the named properties, in that order, and
   * others only where `additionalProperties` gives them a schema, or where none is named. A `pattern` has to match
   * the whole string. So the grammar may allow fewer answers than the schema, and never allows an invalid one.
   *
   * @throws {TypeError} naming the keyword that is wrong or not supported, and its place
   * @throws {RangeError} when the schema is too large, or takes too long or too much memory
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, `ERR_DISPOSED`
   * @throws the reason of `signal`
   */
  async jsonSchema(schema: JsonSchema, options: JsonOptions = {}): Promise<Constraint> {
    rejectUnknownKeys("jsonSchema", options, [...ASKER_NAMES, "maxWhitespace"]);
    const asker = resolveAsker(options);
    const maxWhitespace = integerOption("maxWhitespace", options.maxWhitespace ?? DEFAULT_MAX_WHITESPACE, 0, 256);
    checkSchemaSizes([schema]);
    const budget = new Budget();
    const { text, wide } = schemaGrammars(honouredSchema(schema, budget), budget);
    const exact = wholeGrammar(text, maxWhitespace);
    const source: GrammarSource = wide?.hadBounds
      ? { ...exact, wide: { grammar: wholeGrammar(wide.text, maxWhitespace), hasPatterns: wide.hasPatterns } }
      : exact;
    return this.#compile(source, asker, { kind: "json", schema, maxWhitespace });
  }

  /**
   * Binds answers to a grammar in GBNF notation, such as `root ::= "yes" | "no"`. Classes hold ASCII characters
   * only; write other characters as texts.
   *
   * @param root - the rule to start from
   * @throws {TypeError} when the grammar is invalid; otherwise as `jsonSchema`
   */
  async grammar(ebnf: string, root: string = "root", options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("grammar", options);
    checkGrammar(nonEmpty("ebnf", ebnf));
    const source: GrammarSource = { text: ebnf, root: nonEmpty("root", root) };
    return this.#compile(source, asker, { kind: "grammar", ebnf, root });
  }

  /**
   * Binds answers to texts that a regular expression matches as a whole. `.` and `\S` stand for ASCII characters.
   *
   * @throws {TypeError} naming what is not supported; otherwise as `jsonSchema`
   */
  async regex(pattern: string, options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("regex", options);
    const text = regexGrammar(nonEmpty("pattern", pattern), new Budget());
    return this.#compile(rootedAt(text), asker, { kind: "regex", pattern });
  }

  /**
   * Binds answers to one of some texts. @throws {TypeError} when `texts` is empty or holds something else;
   * otherwise as `jsonSchema`
   */
  async choice(texts: readonly string[], options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("choice", options);
    return this.#compile(rootedAt(choiceGrammar(texts, new Budget())), asker, { kind: "choice", texts });
  }

  /**
   * Binds answers to JSON between fixed texts, such as tool calls, alone or within free text. @throws as `jsonSchema`
   */
  async tagged(answers: TaggedAnswers, options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("tagged", options);
    return this.#compile(taggedSource(answers), asker, { kind: "tagged", answers });
  }

  /** Binds answers to a format that is plain data. @throws {TypeError} on a wrong shape; otherwise as the methods */
  async format(format: AnswerFormat, options: Asker = {}): Promise<Constraint> {
    return this.source(formatSource(format), options);
  }

  /** Binds answers to what the source of another constraint says. @throws as the method that made that one */
  async source(source: AnswerSource, options: Asker = {}): Promise<Constraint> {
    switch (source.kind) {
      case "json":
        return this.jsonSchema(source.schema, { ...options, maxWhitespace: source.maxWhitespace });
      case "grammar":
        return this.grammar(source.ebnf, source.root, options);
      case "regex":
        return this.regex(source.pattern, options);
      case "choice":
        return this.choice(source.texts, options);
      case "tagged":
        return this.tagged(source.answers, options);
      default:
        throw new TypeError(`Unknown kind: ${String(source satisfies never)}`);
    }
  }

  /** Ends all grammars: bound answers cannot continue, and open calls reject with `ERR_DISPOSED`. */
  async dispose(): Promise<void> {
    this.#cache.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #compile(source: GrammarSource, asker: Asker, answers: AnswerSource): Promise<Constraint> {
    const keyed = keyedSource(source);
    const plain = plainCopy(answers);
    await this.#cache.compile(keyed, asker);
    const { client } = asker;
    return constraintOf((question, signal) => this.#cache.mask(keyed, question, { client, signal }), plain);
  }
}

/** A grammar of our own writing. */
function rootedAt(text: string): GrammarText {
  return { text, root: "root" };
}

function onlyAsker(where: string, options: Asker): Asker {
  rejectUnknownKeys(where, options, ASKER_NAMES);
  return resolveAsker(options);
}

function nonEmpty(name: string, value: unknown): string {
  if (typeof value !== "string" || value === "") {
    throw new TypeError(`Expected \`${name}\` to be a text, got ${describeValue(value)}`);
  }
  if (value.length > MAX_SOURCE_CHARACTERS) throw sourceTooLong(value.length);
  return value;
}

// Grammars of texts: lists of choices, regular expressions, and grammars that callers write.

const MAX_SHOWN = 80;

/**
 * Writes a grammar of exactly these texts.
 *
 * @throws {TypeError} when `texts` is empty or holds something else than texts
 * @throws {RangeError} when they are too long together
 */
function choiceGrammar(texts: readonly string[], budget: Budget): string {
  const given: unknown = texts;
  if (!Array.isArray(given) || given.length === 0) {
    throw new TypeError(`Expected \`texts\` to be a list of texts, got ${describeValue(texts)}`);
  }
  for (const text of given) {
    if (typeof text === "string") budget.write(leastLiteralLength(text));
    if (typeof text === "string" && text !== "" && !/\p{Surrogate}/u.test(text)) continue;
    throw new TypeError(`Expected each of \`texts\` to be a text, got ${describeValue(text)}`);
  }
  return `root ::= ${texts.map(literal).join(" | ")}`;
}

/**
 * Writes the grammar of a regular expression. @throws {TypeError} naming what is not supported; {RangeError} when
 * it is too long
 */
function regexGrammar(pattern: string, budget: Budget): string {
  try {
    return `root ::= ${new PatternWriter(plainCharacter, budget).write(pattern)}`;
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new TypeError(`Expected a supported \`pattern\`, got one with ${error.message}`, { cause: error });
  }
}

/**
 * Refuses classes with characters outside ASCII, which the library gets wrong without an error. `[^\x00-\x7f]` is
 * right.
 *
 * @throws {TypeError} naming the class
 */
export function checkGrammar(ebnf: string): void {
  for (const found of classesOf(ebnf)) {
    const numbers = Array.from(found.matchAll(/\\(?:x([0-9a-fA-F]{1,2})|u\{?([0-9a-fA-F]{1,8})|U([0-9a-fA-F]{1,8}))/g));
    const isBeyond = numbers.some(([, x, u, long]) => Number.parseInt(x ?? u ?? long ?? "0", 16) > 0x7f);
    // oxlint-disable-next-line no-control-regex -- all of ASCII
    if (!isBeyond && /^[\x00-\x7f]*$/.test(found)) continue;
    const shown = found.length > MAX_SHOWN ? `${found.slice(0, MAX_SHOWN)}…` : found;
    throw new TypeError(`Expected classes of ASCII characters in the grammar, got ${shown}; write others as texts`);
  }
}

/** Finds the classes of a grammar in one pass, which skips texts and comments. */
function* classesOf(ebnf: string): Generator<string> {
  for (let at = 0; at < ebnf.length; at++) {
    const start = at;
    switch (ebnf.charAt(at)) {
      case "#":
        while (at < ebnf.length && ebnf[at] !== "\n") at++;
        break;
      case '"':
        // The library refuses a text without an end.
        for (at++; at < ebnf.length && ebnf[at] !== '"' && ebnf[at] !== "\n"; at++) if (ebnf[at] === "\\") at++;
        break;
      case "[":
        for (at++; at < ebnf.length && ebnf[at] !== "]"; at++) if (ebnf[at] === "\\") at++;
        yield ebnf.slice(start, at + 1);
        break;
      default:
        break;
    }
  }
}
