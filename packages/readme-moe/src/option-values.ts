// Parsers of option values, for commander.

import { nearestName } from "@readme-moe/core";
import { InvalidArgumentError } from "commander";

type Parser<Value> = (text: string) => Value;

/** Makes a parser of numbers that meet a condition. @param expectation - completes "Expected …." */
export function numberThat(isValid: (value: number) => boolean, expectation: string): Parser<number> {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && isValid(value)) return value;
    throw new InvalidArgumentError(`Expected ${expectation}.`);
  };
}

export const anyNumber: Parser<number> = numberThat(() => true, "a number");
/** Parses a number above 0. */
export const positiveNumber: Parser<number> = numberThat((value) => value > 0, "a number above 0");

/** Makes a parser of numbers from `least` to `most`. */
export function numberBetween(least: number, most: number): Parser<number> {
  return numberThat((value) => value >= least && value <= most, `a number from ${least} to ${most}`);
}

/** Makes a parser of integers from `least` up, in digits only. */
export function wholeNumber(least: number): Parser<number> {
  return (text) => {
    const value = parseWhole(text, least);
    if (value !== undefined) return value;
    throw new InvalidArgumentError(`Expected an integer from ${least} up.`);
  };
}

/** Parses a port to listen on, for commander. */
export function portNumber(text: string): number {
  const port = parseWhole(text, 0);
  if (port !== undefined && port <= 65_535) return port;
  throw new InvalidArgumentError("Expected a port from 0 to 65535.");
}

/** Parses an integer from `least` up; `undefined` for anything else. */
export function parseWhole(text: string, least: number): number | undefined {
  const value = Number(text);
  return /^\d+$/.test(text) && value >= least && Number.isSafeInteger(value) ? value : undefined;
}

/** Makes a parser of values that are separated by commas. @param expectation - completes "Expected …." */
export function listOf<Value>(parse: (part: string) => Value | undefined, expectation: string): Parser<Value[]> {
  return (text) =>
    text.split(",").map((part) => {
      const value = parse(part.trim());
      if (value !== undefined) return value;
      throw new InvalidArgumentError(`Expected ${expectation}.`);
    });
}

/** Makes a parser of known names that are separated by commas; each is taken once. */
export function namesOf<Name extends string>(known: readonly Name[]): Parser<Name[]> {
  return (text) => {
    const names = text.split(",").map((part) => {
      const found = known.find((one) => one === part.trim());
      if (found !== undefined) return found;
      const near = nearestName(part.trim(), known);
      const hint = near === undefined ? "" : ` Did you mean ${near}?`;
      throw new InvalidArgumentError(`Expected names of ${known.join(", ")}, separated by commas.${hint}`);
    });
    return [...new Set(names)];
  };
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
};

/** Parses `150MB`, `1.5GiB` or `100000000` into whole bytes; `undefined` for anything else. */
export function parseBytes(text: string): number | undefined {
  const [, number = "", unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(number) * (UNITS[unit.toUpperCase()] ?? NaN));
  return number !== "" && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Parses a size in bytes, such as `150MB`, for commander. */
export function byteSize(text: string): number {
  const bytes = parseBytes(text.trim());
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError("Expected a size, such as 150MB, 64MiB or 100000000.");
}
