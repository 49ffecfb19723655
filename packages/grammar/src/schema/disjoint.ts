import { isRecord } from "@readme-moe/core";
import type { Budget } from "../grammar-source.ts";
import type { SchemaObject } from "./keywords.ts";

/** Knowledge about the visited parts of a schema. */
export interface Known {
  /** Follows a part that only refers to another; `undefined` where that one is not known yet. */
  resolve(part: SchemaObject): SchemaObject | undefined;
  /** Whether the original part allowed more types than the visited one. */
  isNarrowed(part: SchemaObject): boolean;
}

type Values = ReadonlySet<unknown>;

/** Facts that can prove that no value is valid under two parts. */
interface Facts {
  /** Types of its values; `undefined` where they are not known. */
  readonly kinds: ReadonlySet<string> | undefined;
  /** All its values, where they are listed. */
  readonly values: Values | undefined;
  /** Required properties whose values are listed. */
  readonly marks: ReadonlyMap<string, Values> | undefined;
}

/** Finds out whether alternatives exclude each other, within a budget of steps. */
export class Exclusion {
  readonly #known: Known;
  readonly #budget: Budget;
  readonly #facts = new Map<SchemaObject, Facts>();

  constructor(known: Known, budget: Budget) {
    this.#known = known;
    this.#budget = budget;
  }

  /**
   * Whether no value is valid under two of these parts; `false` also where that is not known.
   *
   * @throws {RangeError} when it takes too many steps
   */
  isDisjoint(parts: readonly SchemaObject[]): boolean {
    if (parts.length < 2) return true;
    const different = new Set(parts.map((part) => this.#known.resolve(part)));
    if (different.size < parts.length) return false;
    const all: Facts[] = [];
    for (const part of different) {
      if (!part) return false;
      all.push(this.#factsOf(part));
    }
    const listed = all.flatMap(({ values }) => values ?? []);
    const marked = all.flatMap(({ marks }) => marks ?? []);
    return areKindsApart(all) && this.#areApart(listed) && this.#areMarkedApart(marked);
  }

  /** Whether no value is in two of the sets. */
  #areApart(sets: readonly Values[]): boolean {
    const seen = new Set<unknown>();
    for (const values of sets) {
      this.#budget.spend(values.size);
      for (const value of values) if (seen.has(value)) return false;
      for (const value of values) seen.add(value);
    }
    return true;
  }

  /** Whether all pairs have a property with different values: one property for all pairs, or one for each. */
  #areMarkedApart(all: readonly ReadonlyMap<string, Values>[]): boolean {
    const [first, ...rest] = all;
    if (!first) return true;
    for (const [name, values] of first) {
      this.#budget.spend(all.length);
      const others = rest.flatMap((marks) => marks.get(name) ?? []);
      if (others.length === rest.length && this.#areApart([values, ...others])) return true;
    }
    return all.every((one, index) => all.slice(index + 1).every((other) => this.#isPairMarkedApart(one, other)));
  }

  #isPairMarkedApart(one: ReadonlyMap<string, Values>, other: ReadonlyMap<string, Values>): boolean {
    const [fewer, more] = one.size <= other.size ? [one, other] : [other, one];
    this.#budget.spend(1 + fewer.size);
    for (const [name, values] of fewer) {
      const otherValues = more.get(name);
      if (!otherValues) continue;
      const [few, many] = values.size <= otherValues.size ? [values, otherValues] : [otherValues, values];
      this.#budget.spend(few.size);
      if (![...few].some((value) => many.has(value))) return true;
    }
    return false;
  }

  #factsOf(part: SchemaObject): Facts {
    const known = this.#facts.get(part);
    if (known) return known;
    const facts = { kinds: this.#kindsOf(part), values: this.#valuesOf(part), marks: this.#marksOf(part) };
    this.#facts.set(part, facts);
    return facts;
  }

  #kindsOf(part: SchemaObject): ReadonlySet<string> | undefined {
    this.#budget.spend(1);
    if (this.#known.isNarrowed(part)) return undefined;
    const { type, anyOf } = part;
    if (typeof type === "string") return new Set([type === "integer" ? "number" : type]);
    const values = this.#valuesOf(part);
    if (values) return new Set([...values].map((value) => (value === null ? "null" : typeof value)));
    if (!Array.isArray(anyOf)) return undefined;
    const kinds = new Set<string>();
    for (const one of anyOf as readonly SchemaObject[]) {
      const inner = this.#kindsOf(one);
      if (!inner) return undefined;
      for (const kind of inner) kinds.add(kind);
    }
    return kinds;
  }

  #valuesOf(part: unknown): Values | undefined {
    if (!isRecord(part) || !Array.isArray(part["enum"])) return undefined;
    this.#budget.spend(part["enum"].length);
    return new Set(part["enum"]);
  }

  #marksOf({ properties, required }: SchemaObject): ReadonlyMap<string, Values> | undefined {
    if (!isRecord(properties) || !Array.isArray(required)) return undefined;
    const marks = new Map<string, Values>();
    for (const name of required.map(String)) {
      this.#budget.spend(1);
      const values = this.#valuesOf(properties[name]);
      if (values) marks.set(name, values);
    }
    return marks;
  }
}

/**
 * Whether parts of the same type are all lists of values or all objects with listed properties, which can be compared.
 */
function areKindsApart(all: readonly Facts[]): boolean {
  const ways = new Map<string, Set<string>>();
  let numHard = 0;
  const numMarked = all.filter(({ marks }) => marks).length;
  for (const [index, { kinds, values, marks }] of all.entries()) {
    if (!kinds) numHard++;
    // A part without anything to compare gets a way of its own.
    const way = values ? "values" : marks ? "marks" : `part ${index}`;
    for (const kind of kinds ?? []) ways.set(kind, (ways.get(kind) ?? new Set<string>()).add(way));
  }
  if (numHard > 0) return numMarked === all.length;
  return [...ways.values()].every((of) => of.size === 1);
}
