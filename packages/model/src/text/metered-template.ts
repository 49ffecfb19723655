// Renders chat templates within budgets. A template is a part of a downloaded model, and must not hold up the engine or
// fill its memory. Budgets count work and not time, so that a template renders everywhere or nowhere.

import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { describeValue } from "@readme-moe/core";

/** Fields of the library's nodes, as far as they are read here. */
interface Node {
  readonly type: string;
  readonly alternate?: readonly Node[];
  readonly args?: readonly Node[];
  readonly argument?: Node;
  readonly assignee?: Node;
  readonly body?: readonly Node[] | undefined;
  readonly call?: Node;
  readonly callee?: Node;
  readonly computed?: boolean;
  readonly defaultBlock?: readonly Node[];
  readonly filter?: Node | undefined;
  readonly iterable?: Node;
  readonly lhs?: Node;
  readonly name?: Node;
  readonly operand?: Node;
  readonly operator?: { readonly value: string };
  readonly property?: Node;
  readonly test?: Node;
  readonly value?: unknown;
}

/** A node that is evaluated, with the values of the parts that are evaluated already. */
interface Use {
  readonly node: Node;
  readonly values: Value[];
}

// The library's pattern for `{% generation %}` takes quadratic time for a run of spaces.
const MAX_SOURCE_LENGTH = 2 ** 20;
const MAX_SPACES = 1024;
const MAX_DEPTH = 512;

// Real templates take some 100 steps for a message, and handle each of its characters some ten times.
const MAX_STEPS = 2 ** 22;
const STEPS_PER_VALUE = 2 ** 11;
const STEPS_PER_CHARACTER = 8;
const MAX_CHARACTERS = 2 ** 26;
const CHARACTERS_PER_CHARACTER = 64;

/** Steps for a name without a value, and for leaving a loop: the library throws an error. */
const ERROR_STEPS = 128;
/** Steps for a turn of a loop, and for a call: the library makes a scope. */
const SCOPE_STEPS = 32;
const STEPS_OF: ReadonlyMap<string, number> = new Map([
  ["Break", ERROR_STEPS],
  ["CallExpression", SCOPE_STEPS],
  ["CallStatement", SCOPE_STEPS],
  ["Continue", ERROR_STEPS],
]);

const MAKING = new Set(["BinaryExpression", "CallExpression", "FilterExpression", "MemberExpression"]);
/** A name that no template can spell. */
const FILTERED: Node = { type: "Identifier", value: "{% filter %}" };

/** A key that no object has, in place of values that are no keys: Jinja finds nothing by them, the library fails. */
const NO_KEY: Node = { type: "StringLiteral", value: "{% no key %}" };

/** The library's interpreter, whose types TypeScript does not find. */
interface Evaluator {
  evaluate(node: Node | undefined, environment: Environment): Value;
}

const LibraryInterpreter: new (environment: Environment) => Evaluator = Interpreter;

/** Evaluates a template's nodes, and counts each part before it is used. */
class MeteredInterpreter extends LibraryInterpreter {
  readonly #budget: Budget;
  readonly #printed: WeakSet<object>;
  #use: Use = { node: { type: "Program" }, values: [] };
  readonly #macros = new WeakSet<Value>();
  #depth = 0;

  constructor(environment: Environment, budget: Budget, printed: WeakSet<object>) {
    super(environment);
    this.#budget = budget;
    this.#printed = printed;
  }

  override evaluate(node: Node | undefined, environment: Environment): Value {
    if (node === undefined) return super.evaluate(node, environment);
    if (node.type === "FilterStatement") return this.#filtered(node, environment);
    // The library looks through all of a macro where it is defined.
    if (node.type === "Macro" || node.type === "CallStatement") this.#budget.step(2 * nodesOf(node).length);
    this.#budget.step(STEPS_OF.get(node.type) ?? 1);
    if (this.#depth === MAX_DEPTH) throw new BudgetError(`it nests deeper than ${MAX_DEPTH} levels`);
    const outer = this.#use;
    const own: Use = { node, values: [] };
    this.#use = own;
    this.#depth += 1;
    try {
      const value = super.evaluate(node, environment);
      const name = node.type === "Macro" ? nameOf(node.name) : undefined;
      if (name !== undefined) this.#macros.add(environment.lookupVariable(name));
      this.#countMade(own, value);
      this.#countUse(outer, own, value);
      const { type, computed = false, property } = outer.node;
      const isKey = type === "MemberExpression" && computed && property === node;
      return isKey && !/string|number/.test(typeof value.value) ? super.evaluate(NO_KEY, environment) : value;
    } finally {
      this.#use = outer;
      this.#depth -= 1;
    }
  }

  /** Does the same as `{% set %}` and a filter: the library filters a text that is not seen here. */
  #filtered(node: Node, environment: Environment): Value {
    this.evaluate({ type: "Set", assignee: FILTERED, body: node.body }, environment);
    return this.evaluate({ type: "FilterExpression", operand: FILTERED, filter: node.filter }, environment);
  }

  #countMade({ node }: Use, value: Value): void {
    // A name is looked up in one scope after another.
    if (node.type === "Identifier") this.#budget.step(value.value === undefined ? ERROR_STEPS : this.#depth >>> 4);
    if (!MAKING.has(node.type)) return;
    if (node.type === "MemberExpression" && node.property?.type !== "SliceExpression") return;
    if (typeof value.value === "string") this.#budget.read(value.value.length);
    else if (node.type === "CallExpression") this.#budget.step(ITEM_STEPS * sizeOf(value));
    else if (node.type === "FilterExpression" && FREE.has(nameOf(node.filter) ?? "")) return;
    else this.#budget.step(sizeOf(value));
  }

  /** Counts what a part costs that is evaluated, just before it is used. */
  #countUse({ node: user, values }: Use, { node, values: parts }: Use, value: Value): void {
    const budget = this.#budget;
    if (this.#printed.has(node)) return void budget.visit(value);
    values.push(value);
    const [first = value] = values;
    if (user.type === "For") {
      if (node === user.iterable || node === user.iterable?.lhs) budget.step(SCOPE_STEPS * sizeOf(value));
    } else if (user.type === "BinaryExpression") {
      if (values.length === 2) budget.operator(user.operator?.value, first, value);
    } else if (user.type === "TestExpression") {
      const name = user.test?.value;
      if (name === "lower" || name === "upper") budget.call(name, value, []);
    } else if (user.type === "FilterExpression") {
      const numParts = 1 + (user.filter?.args?.length ?? 0);
      if (values.length === numParts) budget.call(nameOf(user.filter), first, values.slice(1));
    } else if (user.type === "MemberExpression" && user.property?.type === "SliceExpression") {
      if (values.length === 1 && typeof value.value === "string") budget.step(value.value.length);
    } else if (user.type === "CallExpression" || user.type === "CallStatement") {
      const { callee, args = [] } = user.call ?? user;
      const [object, property] = parts;
      const name = node.computed ? property?.value : node.property?.value;
      if (node === callee && object) budget.call(name, object, values.slice(0, -1));
      // A function of the library reads its lists at once.
      const lists = values.filter((arg) => typeof arg.value !== "string");
      if (node === callee && !this.#macros.has(value)) for (const list of lists) budget.step(ITEM_STEPS * sizeOf(list));
      if (args.some(({ argument }) => argument === node)) budget.step(sizeOf(value));
    }
  }
}

function nameOf(filter: Node | undefined): string | undefined {
  const name = (filter?.callee ?? filter)?.value;
  return typeof name === "string" ? name : undefined;
}

/** Lists a node and all nodes and lists of nodes in it. */
function nodesOf(root: object): object[] {
  const nodes = [root];
  for (const node of nodes) {
    const fields: unknown[] = node instanceof Map ? [...node].flat() : Object.values(node);
    for (const field of fields) if (typeof field === "object" && field !== null) nodes.push(field);
  }
  return nodes;
}

/** A parsed template. */
export class MeteredTemplate {
  readonly #template: Template;
  /** Nodes whose values become text. */
  readonly #printed: WeakSet<object>;

  /** @throws {Error} when the source is no Jinja, or too long */
  constructor(source: string) {
    if (source.length > MAX_SOURCE_LENGTH) throw new Error(`it has more than ${MAX_SOURCE_LENGTH} characters`);
    for (const { 0: spaces } of source.matchAll(/\s+/g)) {
      if (spaces.length > MAX_SPACES) throw new Error(`it has more than ${MAX_SPACES} spaces in a row`);
    }
    this.#template = new Template(source);
    const blocks = nodesOf(this.#template.parsed).flatMap((node) => {
      const { body, alternate, defaultBlock } = node as Readonly<Record<string, object[] | undefined>>;
      return [body, alternate, defaultBlock].flatMap((block) => (Array.isArray(block) ? block : []));
    });
    this.#printed = new WeakSet(blocks);
  }

  /**
   * Does the same as `Template.render`, but with other globals, with variables that may hide a global, and with keys of
   * any type, as Jinja. The budgets grow with the variables.
   * @throws {Error} when the template refuses the variables, fails on them, or takes more than a budget
   */
  render(globals: object, variables: object): string {
    const outer = new Environment();
    for (const [name, value] of Object.entries(globals)) outer.set(name, value);
    const scope = new Environment(outer);
    const size = new Budget(Infinity, Infinity);
    for (const [name, value] of Object.entries(variables)) size.visit(scope.set(name, value));
    const maxSteps = MAX_STEPS + STEPS_PER_VALUE * size.steps + STEPS_PER_CHARACTER * size.characters;
    const maxCharacters = MAX_CHARACTERS + CHARACTERS_PER_CHARACTER * size.characters;
    const budget = new Budget(maxSteps, maxCharacters);
    return String(new MeteredInterpreter(scope, budget, this.#printed).evaluate(this.#template.parsed, scope).value);
  }
}

// Counts the work of rendering a chat template. Each count comes before the work, or behind work that is bounded.

/** A value of the library's interpreter, as far as it is read here. */
interface Value {
  readonly value: unknown;
}

/** Steps for an item that the library makes. */
const ITEM_STEPS = 8;
/** Length of a text that is searched for at the costs of one character. */
const SEARCHED_AT_ONCE = 32;

/** Filters and methods that look at nothing inside their operand. */
const FREE: ReadonlySet<string> = new Set<string>(["default", "first", "get", "last", "length", "list", "safe"]);
/** Filters and tests that read lists and objects to the last text in them. */
const DEEP = new Set(["dictsort", "join", "lower", "sort", "string", "tojson", "unique", "upper"]);
const SORTING = new Set(["dictsort", "sort"]);

/** A template that takes more than its budget. */
class BudgetError extends Error {}

/** Counts work against limits. */
class Budget {
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
function sizeOf({ value }: Value): number {
  if (typeof value === "string" || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}

function occurrences(text: string, part: string): number {
  if (part === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count += 1;
  return count;
}

// Functions that chat templates may call, as transformers gives them.

// A template is a part of a downloaded model, and must not be able to fill the memory with one call.
const MAX_RANGE_LENGTH = 1e6;

/**
 * Returns the globals of every template, as in transformers. The library's own globals cannot be replaced, and its
 * `strftime_now` writes the names of months in the machine's language.
 */
export function templateGlobals(now: () => Date): Readonly<Record<string, unknown>> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: unknown): never => {
      throw new Error(textOf(message));
    },
    strftime_now: (format: unknown) => strftime(now(), textOf(format)),
  };
}

/** Formats an argument; a list of the interpreter may be far larger as a text than in memory. */
function textOf(argument: unknown): string {
  return typeof argument === "string" || typeof argument === "number" ? `${argument}` : describeValue(argument);
}

/** Does the same as Python's `range`. */
function range(...bounds: number[]): number[] {
  const [start = NaN, stop = NaN, step = 1] = bounds.length === 1 ? [0, ...bounds] : bounds;
  if (!Number.isInteger(start) || !Number.isInteger(stop) || !Number.isInteger(step) || step === 0) {
    throw new Error(`range() of ${bounds.map(textOf).join(", ")}`);
  }
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MAX_RANGE_LENGTH) throw new Error(`range() of ${length} numbers is too long`);
  return Array.from({ length }, (_, index) => start + index * step);
}

// English names on every machine, since templates are written against Python's default.
const MONTHS = "January February March April May June July August September October November December".split(" ");
const WEEKDAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

const twoDigits = (value: number): string => String(value).padStart(2, "0");

/** Directives of C's strftime that chat templates use. */
const DIRECTIVES: Readonly<Record<string, (date: Date) => string>> = {
  Y: (date) => String(date.getFullYear()),
  y: (date) => twoDigits(date.getFullYear() % 100),
  m: (date) => twoDigits(date.getMonth() + 1),
  d: (date) => twoDigits(date.getDate()),
  H: (date) => twoDigits(date.getHours()),
  I: (date) => twoDigits(date.getHours() % 12 || 12),
  M: (date) => twoDigits(date.getMinutes()),
  S: (date) => twoDigits(date.getSeconds()),
  p: (date) => (date.getHours() < 12 ? "AM" : "PM"),
  B: (date) => MONTHS[date.getMonth()] ?? "",
  b: (date) => MONTHS[date.getMonth()]?.slice(0, 3) ?? "",
  A: (date) => WEEKDAYS[date.getDay()] ?? "",
  a: (date) => WEEKDAYS[date.getDay()]?.slice(0, 3) ?? "",
  "%": () => "%",
};

/** Formats `date` in local time; a directive that is not known stays as it is, and `-` removes leading zeros. */
function strftime(date: Date, format: string): string {
  return format.replaceAll(/%(-?)([a-zA-Z%])/g, (text, flag: string, directive: string) => {
    const value = Object.hasOwn(DIRECTIVES, directive) ? DIRECTIVES[directive]?.(date) : undefined;
    return value === undefined ? text : flag === "-" ? value.replace(/^0(?=\d)/, "") : value;
  });
}
