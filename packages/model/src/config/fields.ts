// Largest sizes that readers accept from a model's files. Memory and time are spent by them before a tensor has been
// looked at, so each is some times that of the largest published model, and at most what the kernel takes.

import { describeValue, ReadMeError } from "@readme-moe/core";
import { invalid, unsupported } from "../files/errors.ts";

export const MOST = {
  layers: 4096,
  /** Heads of a layer. */
  heads: 4096,
  headSize: 4096,
  /** Width of the residual stream, of an FFN, or of one expert. */
  width: 262_144,
  vocab: 2_097_152,
  /** Experts of a layer with a router. */
  experts: 1024,
  expertsPerToken: 64,
  /** Experts of all layers together. */
  expertsOfLayers: 65_536,
  /** Experts that a route of a whole prompt or token can name, in 16 bits. */
  routedExperts: 65_536,
  /** Numbers that the keys of a token have, of all layers together. */
  keyValues: 4_194_304,
  /** Numbers of a sequence's state in a layer. */
  stateValues: 67_108_864,
  /** Positions of a context. */
  tokens: 16_777_216,
  /** Entries of a list of token ids. */
  tokenIds: 1024,
  /** Integers that nothing is made from, such as windows and versions. */
  integer: 2_147_483_647,
} as const;

// Reads fields of a JSON object from a file. Errors are ReadMeErrors with the file, the field and the value.

/** Fields of one JSON object. Absent and `null` are the same: the default, if there is one. */
export class Fields {
  readonly path: string;
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #prefix: string;
  #defaults: Readonly<Record<string, unknown>> = {};

  /** @throws {ReadMeError} `ERR_MODEL_INVALID` when `value` is no object */
  constructor(path: string, value: unknown, prefix = "") {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const where = prefix === "" ? "a JSON object" : `\`${prefix.slice(0, -1).slice(0, 200)}\` to be an object`;
      throw invalid(path, `expected ${where}, got ${describeValue(value)}`);
    }
    this.path = path;
    this.#object = value as Readonly<Record<string, unknown>>;
    this.#prefix = prefix;
  }

  /** Makes the same fields with values for absent ones. */
  withDefaults(defaults: Readonly<Record<string, unknown>>): Fields {
    const fields = new Fields(this.path, this.#object, this.#prefix);
    fields.#defaults = defaults;
    return fields;
  }

  /** Names of the fields that are present, in the file's order. */
  get names(): readonly string[] {
    return Object.keys(this.#object);
  }

  has(name: string): boolean {
    return this.raw(name) !== undefined;
  }

  /** Tells whether a field is present and `null`: in some configs this means none, and absent means a default. */
  isNull(name: string): boolean {
    return Object.hasOwn(this.#object, name) && this.#object[name] === null;
  }

  raw(name: string): unknown {
    return ownValue(this.#object, name) ?? ownValue(this.#defaults, name) ?? undefined;
  }

  object(name: string): Fields | undefined {
    return this.has(name) ? new Fields(this.path, this.raw(name), `${this.#prefix}${name}.`) : undefined;
  }

  /** Reads a positive integer. @param most - of `MOST`; a larger one is refused as not supported */
  size(name: string, most: number, fallback?: number): number {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1)
      throw this.#unexpected(name, "a positive integer", value);
    if (value <= most) return value;
    throw this.#unsupported(name, value, `supported are up to ${most}`);
  }

  /** Reads an integer from 0, or `undefined`. */
  count(name: string): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (isInteger(value, 0)) return value;
    throw this.#unexpected(name, "an integer of 0 and up", value);
  }

  /** Reads a positive, finite number. */
  positive(name: string, fallback?: number): number {
    const value = this.raw(name) ?? fallback;
    if (isPositive(value)) return value;
    throw this.#unexpected(name, "a positive number", value);
  }

  /** Reads a list of `length` positive, finite numbers. */
  positives(name: string, length: number): readonly number[] {
    const values = this.list(name);
    if (values?.length === length && values.every(isPositive)) return values;
    throw this.#unexpected(name, `a list of ${length} positive numbers`, values);
  }

  /** Reads a finite number. */
  number(name: string, fallback?: number): number {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.#unexpected(name, "a number", value);
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#unexpected(name, "true or false", value);
  }

  text(name: string, fallback?: string): string {
    const value = this.raw(name) ?? fallback;
    if (typeof value === "string") return value;
    throw this.#unexpected(name, "a string", value);
  }

  list(name: string): readonly unknown[] | undefined {
    const value = this.raw(name);
    if (value === undefined || Array.isArray(value)) return value;
    throw this.#unexpected(name, "a list", value);
  }

  texts(name: string): readonly string[] | undefined {
    const values = this.list(name);
    if (values === undefined || values.every((value) => typeof value === "string")) return values;
    throw this.#unexpected(name, "a list of strings", values);
  }

  /** Reads one id, or a list of ids (`eos_token_id`). */
  tokenIds(name: string): readonly number[] {
    const value = this.raw(name);
    if (value === undefined) return [];
    const ids: readonly unknown[] = Array.isArray(value) ? value : [value];
    if (ids.length <= MOST.tokenIds && ids.every((id) => isInteger(id, 0))) return ids;
    throw this.#unexpected(name, `a token id or a list of at most ${MOST.tokenIds}`, value);
  }

  /**
   * Refuses a field.
   *
   * @param kind - what the value stands for, between commas
   * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` with the field and its value, always
   */
  unsupported(name: string, supported: string, kind = ""): never {
    throw this.#unsupported(name, this.raw(name), supported, kind);
  }

  invalid(message: string): ReadMeError {
    return invalid(this.path, message);
  }

  #unsupported(name: string, value: unknown, supported: string, kind = ""): ReadMeError {
    const what = `${this.#named(name)} ${describeValue(value)}${kind}`;
    return unsupported(this.path, `${what} is not supported; ${supported}`);
  }

  #unexpected(name: string, expectation: string, value: unknown): ReadMeError {
    return this.invalid(`expected ${this.#named(name)} to be ${expectation}, got ${describeValue(value)}`);
  }

  /** Names a field for messages; the names of some are from the file, and may be as long as it. */
  #named(name: string): string {
    return `\`${`${this.#prefix}${name}`.slice(0, 200)}\``;
  }
}

function ownValue(object: Readonly<Record<string, unknown>>, name: string): unknown {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function isPositive(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

function isInteger(value: unknown, least: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= least && value <= MOST.integer;
}
