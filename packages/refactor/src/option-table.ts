// Tables of options. Types, checks, defaults, flags and docs follow from them.

import {
  choiceOption,
  describeValue,
  integerOption,
  numberOption,
  rejectUnknownKeys,
  switchOption,
} from "@readme-moe/core";

/** An option: its values, and its flag on the command line. */
export interface TableOption {
  readonly kind: "choice" | keyof OptionValues;
  /** Names that a choice is one of, or that stand for a number. */
  readonly choices?: readonly string[];
  readonly min?: number;
  readonly max?: number;
  /** Number that a value exceeds. */
  readonly above?: number;
  /** Number that exceeds a value. */
  readonly below?: number;
  /** Value of an absent option, unless it depends on something else. */
  readonly default?: string | number | boolean;
  readonly isRequired?: true;
  /** Help of the flag; options without it have none. */
  readonly about?: string;
  /** Default for the help, where `default` does not say it. */
  readonly otherwise?: string;
}

/** Options by name. */
export type OptionTable = Readonly<Record<string, TableOption>>;

/** Values of the kinds of options. */
interface OptionValues {
  readonly integer: number;
  readonly number: number;
  readonly switch: boolean;
  readonly integers: readonly number[];
  readonly shares: readonly (readonly number[])[];
}

type ValueOf<Option> =
  | (Option extends { readonly choices: readonly (infer Choice)[] } ? Choice : never)
  | (Option extends { readonly kind: infer Kind extends keyof OptionValues } ? OptionValues[Kind] : never);

type RequiredOption = { readonly isRequired: true };

/** Options of a table as callers give them. */
export type OptionsOf<Table> = {
  readonly [Name in keyof Table as Table[Name] extends RequiredOption ? Name : never]: ValueOf<Table[Name]>;
} & {
  readonly [Name in keyof Table as Table[Name] extends RequiredOption ? never : Name]?:
    | ValueOf<Table[Name]>
    | undefined;
};

/** Options of a table with all defaults. */
export type ResolvedOf<Table> = { readonly [Name in keyof Table]: ValueOf<Table[Name]> };

/** Options of a table with the defaults that depend on nothing else. */
export type CheckedOf<Table> = {
  readonly [Name in keyof Table]:
    | ValueOf<Table[Name]>
    | (Table[Name] extends RequiredOption | { readonly default: unknown } ? never : undefined);
};

const CHECKS: {
  readonly [Kind in TableOption["kind"]]: (name: string, value: unknown, option: TableOption) => unknown;
} = {
  choice: (name, value, { choices = [] }) => choiceOption(name, value, choices),
  integer: (name, value, { min = 0, max }) => integerOption(name, value, min, max),
  number(name, value, { choices = [], min = 0, max, above = -Infinity, below = Infinity }) {
    if (choices.includes(value as string)) return value;
    const number = numberOption(name, value, min, max);
    // Infinity is a value only where it is the largest one.
    if (number > above && (number < below || number === max)) return number;
    const range = number <= above ? `above ${above}` : `below ${below}`;
    throw new RangeError(`Expected \`${name}\` to be ${range}, got \`${number}\``);
  },
  switch: switchOption,
  integers(name, value, { min = 0 }) {
    if (!Array.isArray(value)) throw new TypeError(`Expected \`${name}\` to be an array, got ${describeValue(value)}`);
    return value.map((one: unknown, index) => integerOption(`${name}[${index}]`, one, min));
  },
  // Rows are as long as the caller's table of experts.
  shares: (_, value) => value,
};

/**
 * Checks options one by one, and fills in the defaults that depend on nothing else.
 *
 * @param others - names of further options, which are not checked
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkedOptions<Table extends OptionTable>(
  where: string,
  table: Table,
  options: object,
  others: readonly string[] = [],
): CheckedOf<Table> {
  rejectUnknownKeys(where, options, [...Object.keys(table), ...others]);
  const given: Readonly<Record<string, unknown>> = { ...options };
  const checked = Object.entries(table).map(([name, option]) => {
    const { [name]: value = option.default } = given;
    return [name, value === undefined && !option.isRequired ? undefined : CHECKS[option.kind](name, value, option)];
  });
  return Object.fromEntries(checked) as CheckedOf<Table>;
}

/** Takes the options of a table out of an object that has more. */
export function pickOptions<Table extends OptionTable>(table: Table, options: object): Partial<ResolvedOf<Table>> {
  const known = Object.entries(options).filter(([name, value]) => name in table && value !== undefined);
  return Object.fromEntries(known) as Partial<ResolvedOf<Table>>;
}

// Options of jobs that do not change the result.

/** Options of every job of the lab that do not change its result. */
export interface JobRun<Progress> {
  /** Name of the model in the report. @default the model's path */
  readonly source?: string | undefined;
  /** Resumes unfinished work for the same folder. @default false */
  readonly resume?: boolean | undefined;
  /** Threads of the inference runtime. @default all cores */
  readonly threads?: number | undefined;
  /** Stops the work; it can be resumed. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Time between two checkpoints, about the work that a killed process loses. @default 300000; 30000 of layers */
  readonly checkpointMs?: number | undefined;
}

export const RUN_NAMES = ["source", "resume", "threads", "signal", "onProgress", "checkpointMs"] as const;
