// Fields of lines of a trace. They come from files of unknown origin.

import { ReadMeError } from "../errors.ts";
import { describeValue } from "../options.ts";

/** The fields of an object of JSON; each is checked when it is read. */
export class Fields {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(value: unknown, where: string) {
    this.#where = where;
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad("expected an object");
    this.#fields = { ...value };
  }

  /** @param where - file and line, for messages */
  static parse(line: string, where: string): Fields {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw new ReadMeError("ERR_FILE_CORRUPT", `${where}: is not JSON`, { cause });
    }
    return new Fields(value, where);
  }

  has(name: string): boolean {
    return this.#fields[name] !== undefined;
  }

  text(name: string): string {
    const value = this.#fields[name];
    if (typeof value === "string" && value !== "") return value;
    throw this.#unexpected(name, "a string that is not empty", value);
  }

  integer(name: string, least: number): number {
    const value = this.#fields[name];
    if (isInteger(value, least, Infinity)) return value;
    throw this.#unexpected(name, `an integer from ${least} up`, value);
  }

  integers(name: string, leastLength: number, least: number, most: number = Infinity): readonly number[] {
    const values = this.#fields[name];
    if (!Array.isArray(values) || values.length < leastLength) {
      throw this.#unexpected(name, `an array of at least ${leastLength} integers`, values);
    }
    const range = most === Infinity ? `from ${least} up` : `from ${least} to ${most}`;
    return values.map((value: unknown, index) => {
      if (isInteger(value, least, most)) return value;
      throw this.#unexpected(`${name}[${index}]`, `an integer ${range}`, value);
    });
  }

  /** Reads at least `leastLength` lists of integers, all of one length and in one range. */
  lists(
    name: string,
    leastLength: number,
    each: { readonly length: number; readonly least: number; readonly most: number },
  ): readonly (readonly number[])[] {
    const values = this.#fields[name];
    const isOne = (value: unknown): boolean =>
      Array.isArray(value) &&
      value.length === each.length &&
      value.every((one: unknown) => isInteger(one, each.least, each.most));
    if (Array.isArray(values) && values.length >= leastLength && values.every(isOne)) return values;
    const lists = `at least ${leastLength} lists of ${each.length} integers from ${each.least} to ${each.most}`;
    throw this.#unexpected(name, lists, values);
  }

  objects(name: string): readonly Fields[] {
    const values = this.#fields[name];
    if (!Array.isArray(values)) throw this.#unexpected(name, "an array of objects", values);
    return values.map((value, index) => new Fields(value, `${this.#where}: \`${name}[${index}]\``));
  }

  /** Reads one integer or null for each of `length` experts. */
  integersOrNull(name: string, length: number, least: number): readonly (number | null)[] {
    const values = this.#fields[name];
    const isOne = (value: unknown): boolean => value === null || isInteger(value, least, Infinity);
    if (Array.isArray(values) && values.length === length && values.every(isOne)) return values;
    throw this.#unexpected(name, `${length} integers from ${least} up, or null`, values);
  }

  bad(problem: string, options?: ErrorOptions): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.#where}: ${problem}`, options);
  }

  #unexpected(name: string, expectation: string, value: unknown): ReadMeError {
    return this.bad(`expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  }
}

function isInteger(value: unknown, least: number, most: number): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most;
}
