// Renders chat templates within budgets. A template is a part of a downloaded model, and must not hold up the engine or
// fill its memory. Budgets count work and not time, so that a template renders everywhere or nowhere.

import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { Budget, BudgetError, FREE, ITEM_STEPS, sizeOf, type Value } from "./template-budget.ts";

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
      return value;
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
   * Does the same as `Template.render`, but with other globals, and with variables that may hide a global. The budgets
   * grow with the variables.
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
