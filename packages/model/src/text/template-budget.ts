// Counts the work of rendering a chat template. Each count comes before the work, or behind work that is bounded.

/** A value of the library's interpreter, as far as it is read here. */
export interface Value {
  readonly value: unknown;
}

/** Steps for an item that the library makes. */
export const ITEM_STEPS = 8;
/** Length of a text that is searched for at the costs of one character. */
const SEARCHED_AT_ONCE = 32;

/** Filters and methods that look at nothing inside their operand. */
export const FREE: ReadonlySet<string> = new Set<string>(["default", "first", "get", "last", "length", "list", "safe"]);
/** Filters and tests that read lists and objects to the last text in them. */
const DEEP = new Set(["dictsort", "join", "lower", "sort", "string", "tojson", "unique", "upper"]);
const SORTING = new Set(["dictsort", "sort"]);

/** A template that takes more than its budget. */
export class BudgetError extends Error {}

/** Counts work against limits. */
export class Budget {
  steps = 0;
  characters = 0;
  readonly #maxSteps: number;
  readonly #maxCharacters: number;

  constructor(maxSteps: number, maxCharacters: number) {
    this.#maxSteps = maxSteps;
    this.#maxCharacters = maxCharacters;
  }

  step(count: number): void {
    this.steps += count;
    if (this.steps > this.#maxSteps) throw new BudgetError(`it takes more than ${this.#maxSteps} steps`);
  }

  read(count: number): void {
    this.characters += count;
    if (this.characters <= this.#maxCharacters) return;
    throw new BudgetError(`it reads and writes more than ${this.#maxCharacters} characters`);
  }

  /** Counts all values in a value: one that is in two places twice, as the library prints it twice. */
  visit(value: Value): { readonly numValues: number; readonly depth: number } {
    const open: [Value, number][] = [[value, 1]];
    let [numValues, depth] = [0, 0];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const [{ value: inner }, level] = next;
      numValues += 1;
      depth = Math.max(depth, level);
      this.step(1);
      if (typeof inner === "string") this.read(inner.length);
      else if (Array.isArray(inner)) for (const item of inner) open.push([item, level + 1]);
      else if (inner instanceof Map) {
        for (const [key, item] of inner) {
          this.read(key.length);
          open.push([item, level + 1]);
        }
      }
    }
    return { numValues, depth };
  }

  /** Counts a search for `part`. */
  search(text: string, part: string): void {
    if (part.length <= text.length) this.read(text.length * Math.ceil((part.length + 1) / SEARCHED_AT_ONCE));
  }

  operator(name: string | undefined, left: Value, right: Value): void {
    const [first, second] = [left.value, right.value];
    if (name === "==" || name === "!=") {
      // JavaScript compares a list with something else by its text.
      if (Array.isArray(first) !== Array.isArray(second)) this.#both(left, right);
      else if (typeof first === "string") this.read(first.length);
    } else if (name === "in" || name === "not in") {
      if (typeof first !== "string") this.step(sizeOf(right));
      else if (typeof second === "string") this.search(second, first);
      else if (Array.isArray(second)) this.read(second.length * (first.length + 1));
    } else if (name === "~" || (name === "+" && !(Array.isArray(first) && Array.isArray(second)))) {
      this.#both(left, right);
    }
  }

  #both(left: Value, right: Value): void {
    this.visit(left);
    this.visit(right);
  }

  /** Counts a filter or method. */
  call(name: unknown, operand: Value, args: readonly Value[]): void {
    if (typeof name !== "string" || FREE.has(name)) return;
    const texts = args.map(({ value }) => value).filter((value) => typeof value === "string");
    const width = Math.max(4, ...args.map(({ value }) => (typeof value === "number" ? value : 0)));
    if (typeof operand.value === "string") {
      this.read(operand.value.length);
      this.#textCall(name, operand.value, texts, width);
      return;
    }
    const size = sizeOf(operand);
    const length = args.reduce((sum, arg) => sum + sizeOf(arg), 1);
    const isDeep = DEEP.has(name) || texts.some((text) => DEEP.has(text));
    const before = this.characters;
    const { numValues, depth } = isDeep ? this.visit(operand) : { numValues: size, depth: 1 };
    const isSorted = SORTING.has(name) || (name === "tojson" && args.length > 0);
    const turns = isSorted ? Math.ceil(Math.log2(numValues + 1)) : 1;
    this.step(numValues * turns);
    this.read(turns * (numValues * length + this.characters - before));
    if (name === "tojson") {
      for (const arg of args) if (Array.isArray(arg.value)) this.read(numValues * this.visit(arg).numValues);
      for (const arg of args) if (Array.isArray(arg.value)) this.#separators(arg.value, numValues);
      this.read(numValues * depth * (args.length > 0 ? width : 0));
    }
  }

  #separators(separators: readonly Value[], numValues: number): void {
    for (const separator of separators) this.read(numValues * sizeOf(separator));
  }

  #textCall(name: string, text: string, [first = "", second = ""]: readonly string[], width: number): void {
    if (name === "split" || name === "replace") {
      this.search(text, first);
      const count = name === "split" && first === "" ? text.length : occurrences(text, first);
      this.step(ITEM_STEPS * count);
      this.read(count * second.length);
    } else if (name === "indent") {
      const lines = occurrences(text, "\n") + 1;
      this.step(ITEM_STEPS * lines);
      this.read(lines * width);
    } else if (name === "join") {
      this.step(text.length);
      this.read(text.length * first.length);
    }
  }
}

/** Returns the number of characters or items; 0 for other values. */
export function sizeOf({ value }: Value): number {
  if (typeof value === "string" || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}

function occurrences(text: string, part: string): number {
  if (part === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count += 1;
  return count;
}
