// Kinds of the engine's options, and the checks of their values.

import {
  choiceOption,
  describeValue,
  integerOption,
  isRecord,
  numberOption,
  switchOption,
  textOption,
} from "@readme-moe/core";
import { functionModuleOption } from "./function-module.ts";

/** An option of the engine: its values, and its flag on the command line. */
export interface EngineOption {
  readonly kind: "choice" | keyof OptionValues;
  readonly choices?: readonly string[];
  /** Whether the value may also be a function that a module exports. */
  readonly orModule?: true;
  readonly min?: number;
  readonly max?: number;
  /** Kind of file that a path names. */
  readonly names?: string;
  /** Value of an absent option, unless it depends on the model or on other options. */
  readonly default?: string | number | boolean;
  /** Whether a reader of prompts has the option, too. */
  readonly reader?: true;
  /** Flag of the commands that run a model; its default in words where that of the option does not say it. */
  readonly flag?: { readonly syntax: string; readonly about: string; readonly default?: string };
}

export interface OptionValues {
  readonly integer: number;
  readonly number: number;
  readonly switch: boolean;
  readonly path: string;
  readonly text: string;
  readonly expert: string | number;
  readonly folders: Readonly<Record<string, string>>;
  readonly share: number | "by-arrival";
}

/** Checks of values by the kind of option; they throw a `TypeError` or `RangeError` with the expectation and value. */
export const OPTION_CHECKS: {
  readonly [Kind in EngineOption["kind"]]: (name: string, value: unknown, entry: EngineOption) => unknown;
} = {
  choice: (name, value, { choices = [], orModule }) =>
    (orModule && functionModuleOption(name, value)) ?? choiceOption(name, value, choices),
  integer: (name, value, { min = 0, max }) => integerOption(name, value, min, max),
  number: (name, value, { min = 0, max }) => numberOption(name, value, min, max),
  switch: switchOption,
  path(name, value, { names }) {
    if (typeof value === "string" && value !== "") return value;
    throw new TypeError(`Expected \`${name}\` to name ${names}, got ${describeValue(value)}`);
  },
  text: textOption,
  // The model's experts are known later.
  expert: (_, value) => value,
  folders(name, value) {
    const isValid = isRecord(value) && Object.values(value).every((path) => typeof path === "string" && path !== "");
    if (isValid) return { ...value };
    throw new TypeError(`Expected \`${name}\` to be an object with folders by name`);
  },
  share(name, value) {
    if (typeof value === "number") return numberOption(name, value, 0, 1);
    if (value === "by-arrival") return value;
    throw new TypeError(`Expected \`${name}\` to be a number or "by-arrival", got ${describeValue(value)}`);
  },
};
