import { describeValue, integerOption, rejectUnknownKeys, type EngineVocabulary } from "@readme-moe/core";
import { constraintOf, type Constraint } from "./constraint.ts";
import type { GrammarSource } from "./grammar-source.ts";
import { resolveGrammarsOptions, type GrammarsOptions } from "./grammars-options.ts";
import { HomeCache } from "./matching/home-cache.ts";
import { checkGrammar } from "./check-grammar.ts";
import { choiceGrammar } from "./choice-grammar.ts";
import { regexGrammar } from "./regex-grammar.ts";
import { schemaGrammar } from "./schema/ebnf/schema-grammar.ts";
import { honouredSchema, type JsonSchema } from "./schema/honoured-schema.ts";
import { tagsFormat, type TaggedAnswers } from "./tagged-answers.ts";

/** Of answers in JSON. */
export interface JsonOptions {
  /** Blanks, tabs and line ends in a row between two parts of the JSON; strings may hold any. @default 16 */
  readonly maxWhitespace?: number | undefined;
}

const MAX_SOURCE_CHARACTERS = 262_144;

/**
 * Binds answers of one model to JSON, JSON schemas, regular expressions and grammars.
 *
 * Compiling, and finding the tokens that may come next, are done in threads of their own: the event loop stays free, and
 * a grammar that takes too long or too much memory ends alone. Grammars are kept by what they were made from.
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
   */
  async jsonSchema(schema: JsonSchema, options: JsonOptions = {}): Promise<Constraint> {
    rejectUnknownKeys("jsonSchema", options, ["maxWhitespace"]);
    const maxWhitespace = integerOption("maxWhitespace", options.maxWhitespace ?? 16, 0, 256);
    return this.#compile({ kind: "ebnf", text: schemaGrammar(honouredSchema(schema), maxWhitespace), root: "root" });
  }

  /**
   * A grammar in the notation of GBNF, such as `root ::= "yes" | "no"`. Classes are of ASCII; other characters are texts.
   * @param root - the rule to start from
   * @throws {TypeError} when it is no grammar; otherwise as `jsonSchema`
   */
  async grammar(ebnf: string, root: string = "root"): Promise<Constraint> {
    checkGrammar(text("ebnf", ebnf));
    return this.#compile({ kind: "ebnf", text: ebnf, root: text("root", root) });
  }

  /**
   * A text that a regular expression matches as a whole. `.` and `\S` stand for characters of ASCII.
   * @throws {TypeError} naming what is not supported; otherwise as `jsonSchema`
   */
  async regex(pattern: string): Promise<Constraint> {
    return this.#compile({ kind: "ebnf", text: regexGrammar(text("pattern", pattern)), root: "root" });
  }

  /** One of some texts. @throws {TypeError} when they are no texts, or none */
  async choice(texts: readonly string[]): Promise<Constraint> {
    return this.#compile({ kind: "ebnf", text: choiceGrammar(texts), root: "root" });
  }

  /** JSON between fixed texts, such as calls of tools, alone or amid free text. @throws as `jsonSchema` */
  async tagged(answers: TaggedAnswers): Promise<Constraint> {
    return this.#compile({ kind: "tags", format: JSON.stringify(tagsFormat(answers)) });
  }

  /** Answers that are bound can no longer go on; those who wait get `ERR_DISPOSED`. */
  async dispose(): Promise<void> {
    this.#homes.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #compile(source: GrammarSource): Promise<Constraint> {
    const { length } = JSON.stringify(source);
    if (length > MAX_SOURCE_CHARACTERS) {
      throw new RangeError(`Expected a grammar of at most ${MAX_SOURCE_CHARACTERS} characters, got ${length}`);
    }
    await this.#homes.compile(source);
    return constraintOf((question) => this.#homes.mask(source, question));
  }
}

function text(name: string, value: unknown): string {
  if (typeof value === "string" && value !== "") return value;
  throw new TypeError(`Expected \`${name}\` to be a text, got ${describeValue(value)}`);
}
