// Tables of options. Types, checks, defaults, flags and docs follow from them.

import {
  choiceOption,
  describeValue,
  integerOption,
  isRecord,
  numberOption,
  switchOption,
  textOption,
} from "./options.ts";

/** An option: its values. */
export interface TableOption {
  readonly kind: "choice" | keyof OptionValues;
  /** Names that a choice is one of, or that stand for a number. */
  readonly choices?: readonly string[];
  /** Whether the value of a choice may also be a function that a module exports. */
  readonly orModule?: true;
  readonly min?: number;
  readonly max?: number;
  /** Number that a value exceeds. */
  readonly above?: number;
  /** Number that exceeds a value. */
  readonly below?: number;
  /** Kind of file that a path names. */
  readonly names?: string;
  /** Value of an absent option, unless it depends on something else. */
  readonly default?: string | number | boolean;
  readonly isRequired?: true;
}

/** Options by name. */
export type OptionTable = Readonly<Record<string, TableOption>>;

/** Values of the kinds of options. */
export interface OptionValues {
  readonly integer: number;
  readonly number: number;
  readonly switch: boolean;
  readonly text: string;
  readonly path: string;
  readonly expert: string | number;
  readonly folders: Readonly<Record<string, string>>;
  readonly integers: readonly number[];
  readonly shares: readonly (readonly number[])[];
}

type ValueOf<Option, Module> =
  | (Option extends { readonly choices: readonly (infer Choice)[] } ? Choice : never)
  | (Option extends { readonly orModule: true } ? Module : never)
  | (Option extends { readonly kind: infer Kind extends keyof OptionValues } ? OptionValues[Kind] : never);

type RequiredOption = { readonly isRequired: true };

/** Options of a table as callers give them. */
export type OptionsOf<Table, Module = never> = {
  readonly [Name in keyof Table as Table[Name] extends RequiredOption ? Name : never]: ValueOf<Table[Name], Module>;
} & {
  readonly [Name in keyof Table as Table[Name] extends RequiredOption ? never : Name]?:
    | ValueOf<Table[Name], Module>
    | undefined;
};

/** Options of a table with all defaults. */
export type ResolvedOf<Table> = { readonly [Name in keyof Table]: ValueOf<Table[Name], never> };

/** Options of a table with the defaults that depend on nothing else. */
export type CheckedOf<Table, Module = never> = {
  readonly [Name in keyof Table]:
    | ValueOf<Table[Name], Module>
    | (Table[Name] extends RequiredOption | { readonly default: unknown } ? never : undefined);
};

const CHECKS: {
  readonly [Kind in TableOption["kind"]]: (name: string, value: unknown, option: TableOption) => unknown;
} = {
  choice: (name, value, { choices = [] }) => choiceOption(name, value, choices),
  integer: (name, value, { min = 0, max }) => integerOption(name, value, min, max),
  number(name, value, { choices = [], min = 0, max, above = -Infinity, below = Infinity }) {
    if (choices.includes(value as string)) return value;
    if (choices.length > 0 && typeof value !== "number") {
      const names = choices.map((choice) => `"${choice}"`).join(", ");
      throw new TypeError(`Expected \`${name}\` to be a number or ${names}, got ${describeValue(value)}`);
    }
    const number = numberOption(name, value, min, max);
    // Infinity is a value only where it is the largest one.
    if (number > above && (number < below || number === max)) return number;
    const range = number <= above ? `above ${above}` : `below ${below}`;
    throw new RangeError(`Expected \`${name}\` to be ${range}, got \`${number}\``);
  },
  switch: switchOption,
  text: textOption,
  path(name, value, { names = "a file" }) {
    if (typeof value === "string" && value !== "") return value;
    throw new TypeError(`Expected \`${name}\` to name ${names}, got ${describeValue(value)}`);
  },
  // The model's experts are known later.
  expert: (_, value) => value,
  folders(name, value) {
    const isValid = isRecord(value) && Object.values(value).every((path) => typeof path === "string" && path !== "");
    if (isValid) return { ...value };
    throw new TypeError(`Expected \`${name}\` to be an object with folders by name`);
  },
  integers(name, value, { min = 0 }) {
    if (!Array.isArray(value)) throw new TypeError(`Expected \`${name}\` to be an array, got ${describeValue(value)}`);
    return value.map((one: unknown, index) => integerOption(`${name}[${index}]`, one, min));
  },
  // Rows are as long as the caller's table of experts.
  shares: (_, value) => value,
};

/**
 * Checks options one by one, and fills in the defaults that depend on nothing else. Other keys are left out.
 *
 * @param moduleOf - checks the module of a function; returns nothing for other values
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkedTable<Table extends OptionTable, Module = never>(
  table: Table,
  options: object,
  moduleOf?: (name: string, value: unknown) => Module | undefined,
): CheckedOf<Table, Module> {
  const given: Readonly<Record<string, unknown>> = { ...options };
  const checked = Object.entries(table).map(([name, option]) => {
    const { [name]: value = option.default } = given;
    if (value === undefined && !option.isRequired) return [name, undefined];
    const module = option.orModule && moduleOf?.(name, value);
    return [name, module ?? CHECKS[option.kind](name, value, option)];
  });
  return Object.fromEntries(checked) as CheckedOf<Table, Module>;
}
