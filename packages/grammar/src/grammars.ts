import { describeValue, integerOption, rejectUnknownKeys, type EngineVocabulary } from "@readme-moe/core";
import { ASKER_NAMES, resolveAsker, type Asker } from "./asker.ts";
import { constraintOf, type Constraint } from "./constraint.ts";
import { keyedSource, MAX_SOURCE_CHARACTERS, sourceTooLong, type GrammarSource } from "./grammar-source.ts";
import { resolveGrammarsOptions, type GrammarsOptions } from "./grammars-options.ts";
import { HomeCache } from "./matching/home-cache.ts";
import { checkGrammar } from "./check-grammar.ts";
import { choiceGrammar } from "./choice-grammar.ts";
import { regexGrammar } from "./regex-grammar.ts";
import { Budget } from "./schema/budget.ts";
import { schemaGrammar } from "./schema/ebnf/schema-grammar.ts";
import { honouredSchema, type JsonSchema } from "./schema/honoured-schema.ts";
import { checkSchemaSizes } from "./schema/schema-size.ts";
import { tagsFormat, type TaggedAnswers } from "./tagged-answers.ts";

/** Of answers in JSON. */
export interface JsonOptions extends Asker {
  /** Blanks, tabs and line ends in a row between two parts of the JSON; strings may hold any. @default 16 */
  readonly maxWhitespace?: number | undefined;
}

/**
 * Binds answers of one model to JSON, JSON schemas, regular expressions and grammars.
 *
 * Compiling, and finding the tokens that may come next, are done in threads of their own: the event loop stays free, and
 * a grammar that takes too long or too much memory ends alone. Grammars are kept by what they were made from. Reading
 * what to compile is done here, within limits that keep it short.
 */
export class Grammars implements AsyncDisposable {
  readonly #homes: HomeCache;

  private constructor(homes: HomeCache) {
    this.#homes = homes;
  }

  /**
   * @param source - an engine, or what its `vocabulary()` gives
   * @throws {TypeError | RangeError} on wrong options, and for a model without end tokens
   */
  static async open(
    source: EngineVocabulary | { vocabulary(): Promise<EngineVocabulary> },
    options: GrammarsOptions = {},
  ): Promise<Grammars> {
    const limits = resolveGrammarsOptions(options);
    const vocabulary = "offsets" in source ? source : await source.vocabulary();
    if (vocabulary.eosTokenIds.length > 0) return new Grammars(new HomeCache(vocabulary, limits));
    throw new TypeError("Expected a model with an end token: without one an answer cannot end");
  }

  /** Any JSON object. @throws as `jsonSchema` */
  jsonObject(options: JsonOptions = {}): Promise<Constraint> {
    return this.jsonSchema({ type: "object" }, options);
  }

  /**
   * JSON that is valid under a schema. Objects have the properties that are named, in that order, and others only where
   * `additionalProperties` gives them a schema, or where none is named; a `pattern` is matched by the whole string.
   * So answers may be fewer than the schema allows, and are never others.
   *
   * @throws {TypeError} naming the keyword that is wrong or cannot be honoured, and where it is
   * @throws {RangeError} when the schema is too large, or takes too long or too much memory
   * @throws {ReadMeError} `ERR_QUEUE_FULL`, `ERR_DISPOSED`
   * @throws the reason of `signal`
   */
  async jsonSchema(schema: JsonSchema, options: JsonOptions = {}): Promise<Constraint> {
    rejectUnknownKeys("jsonSchema", options, [...ASKER_NAMES, "maxWhitespace"]);
    const asker = resolveAsker(options);
    const maxWhitespace = integerOption("maxWhitespace", options.maxWhitespace ?? 16, 0, 256);
    checkSchemaSizes([schema]);
    const budget = new Budget();
    const text = schemaGrammar(honouredSchema(schema, budget), maxWhitespace, budget);
    return this.#compile({ kind: "ebnf", text, root: "root" }, asker);
  }

  /**
   * A grammar in the notation of GBNF, such as `root ::= "yes" | "no"`. Classes are of ASCII; other characters are texts.
   * @param root - the rule to start from
   * @throws {TypeError} when it is no grammar; otherwise as `jsonSchema`
   */
  async grammar(ebnf: string, root: string = "root", options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("grammar", options);
    checkGrammar(nonEmpty("ebnf", ebnf));
    return this.#compile({ kind: "ebnf", text: ebnf, root: nonEmpty("root", root) }, asker);
  }

  /**
   * A text that a regular expression matches as a whole. `.` and `\S` stand for characters of ASCII.
   * @throws {TypeError} naming what is not supported; otherwise as `jsonSchema`
   */
  async regex(pattern: string, options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("regex", options);
    const text = regexGrammar(nonEmpty("pattern", pattern), new Budget());
    return this.#compile({ kind: "ebnf", text, root: "root" }, asker);
  }

  /** One of some texts. @throws {TypeError} when they are no texts, or none; otherwise as `jsonSchema` */
  async choice(texts: readonly string[], options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("choice", options);
    return this.#compile({ kind: "ebnf", text: choiceGrammar(texts, new Budget()), root: "root" }, asker);
  }

  /** JSON between fixed texts, such as calls of tools, alone or amid free text. @throws as `jsonSchema` */
  async tagged(answers: TaggedAnswers, options: Asker = {}): Promise<Constraint> {
    const asker = onlyAsker("tagged", options);
    return this.#compile({ kind: "tags", format: JSON.stringify(tagsFormat(answers)) }, asker);
  }

  /** Answers that are bound can no longer go on; those who wait get `ERR_DISPOSED`. */
  async dispose(): Promise<void> {
    this.#homes.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #compile(source: GrammarSource, asker: Asker): Promise<Constraint> {
    const keyed = keyedSource(source);
    await this.#homes.compile(keyed, asker);
    const { client } = asker;
    return constraintOf((question, signal) => this.#homes.mask(keyed, question, { client, signal }));
  }
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
