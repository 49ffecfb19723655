// Readers of what models write between the marks of a call: JSON, a name with JSON behind it, XML, Python.

import { isRecord } from "@readme-moe/core";
import type { Tag } from "@readme-moe/grammar";
import {
  argumentsJson,
  type CallInput,
  objectJson,
  peek,
  type Reading,
  takeBlanks,
  takeMark,
  takeString,
  takeUntil,
  takeValue,
  takeWhile,
  valueOf,
} from "./call-input.ts";

/** A call of a function. */
export interface Call {
  readonly name: string;
  /** Arguments as JSON. */
  readonly args: string;
}

/** Place where a bound call goes while it arrives. */
export interface CallSink {
  begin(call: Call): void;
  pass(args: string): void;
}

/** Text that calls are read from, and what the request says about them. */
export interface CallSource {
  readonly input: CallInput;
  /** Schemas of the arguments, by the names of functions that may be called. */
  readonly tools: ReadonlyMap<string, unknown>;
  /** Present if calls are bound: no other calls are read then. */
  readonly sink: CallSink | undefined;
}

/** Calls that were read and not passed on before; `undefined` for what is no call. */
export type ReadCalls = readonly Call[] | undefined;

/** Reads the calls behind a begin mark. It takes no character that shows that there is no call. */
export type CallBody = (source: CallSource) => Reading<ReadCalls>;

const MAX_NAME = 128;
const MAX_KEY = 16;

/** Layouts of objects that models write: behind the bracket, a name and a value, and the bracket that closes it. */
const LAYOUTS = [
  ["{", ": ", ", ", "}"],
  ["{", ":", ",", "}"],
  ["{\n  ", ": ", ",\n  ", "\n}"],
  ["{\n    ", ": ", ",\n    ", "\n}"],
] as const;

/** Lists the texts around the arguments of a bound call in JSON, the usual ones first. */
export function jsonStyles(name: string, key: string): readonly Tag[] {
  return LAYOUTS.map(([open, colon, comma, end]) => ({
    begin: `${open}"name"${colon}${JSON.stringify(name)}${comma}${JSON.stringify(key)}${colon}`,
    end,
  }));
}

/** Lists the beginnings of the same, up to the name. */
export function jsonHeads(name: string): readonly string[] {
  return LAYOUTS.map(([open, colon]) => `${open}"name"${colon}${JSON.stringify(name)}`);
}

/** Reads objects with `name` and `arguments`, or lists of them, behind one another. */
export function* jsonBody(source: CallSource): Reading<ReadCalls> {
  return yield* jsonValues(source, false);
}

function* jsonValues(source: CallSource, needsArguments: boolean): Reading<ReadCalls> {
  const { input } = source;
  const calls: Call[] = [];
  for (let count = 0; ; count++) {
    const first = yield* peek(input);
    if (first !== "{" && first !== "[") return count === 0 ? undefined : calls;
    const read = yield* jsonValue(source, needsArguments);
    if (!read) return undefined;
    calls.push(...read);
    yield* takeWhile(input, /[ \t\r\n,;]/);
  }
}

function* jsonValue(source: CallSource, needsArguments: boolean): Reading<ReadCalls> {
  if ((yield* takeMark(source.input, ["["])) === undefined) return yield* jsonCall(source, { needsArguments });
  return yield* jsonItems(source, needsArguments);
}

/** Reads a list behind its bracket. */
function* jsonItems(source: CallSource, needsArguments: boolean): Reading<ReadCalls> {
  const calls: Call[] = [];
  for (;;) {
    yield* takeBlanks(source.input);
    const read = yield* jsonCall(source, { needsArguments });
    if (!read) return undefined;
    calls.push(...read);
    yield* takeBlanks(source.input);
    const next = yield* takeMark(source.input, [",", "]"]);
    if (next !== ",") return next === undefined ? undefined : calls;
  }
}

interface JsonCallOptions {
  readonly needsArguments: boolean;
  /** Whether the object is the `function` of another one. @default false */
  readonly isNested?: boolean;
}

function* jsonCall(source: CallSource, { needsArguments, isNested = false }: JsonCallOptions): Reading<ReadCalls> {
  const { input, sink } = source;
  input.recent = "";
  if ((yield* takeMark(input, ["{"])) === undefined) return undefined;
  let name: string | undefined;
  let args: string | undefined;
  let nested: ReadCalls;
  for (;;) {
    yield* takeBlanks(input);
    const key = yield* takeWord(input, MAX_KEY);
    yield* takeBlanks(input);
    if (key === undefined || (yield* takeMark(input, [":"])) === undefined) return undefined;
    yield* takeBlanks(input);
    const isObject = (yield* peek(input)) === "{";
    if (key === "arguments" || key === "parameters") {
      args = sink ? yield* boundValue(source, { name, key }) : yield* freeValue(input);
      if (args === undefined) return undefined;
    } else if (key === "function" && isObject && !isNested) {
      nested = yield* jsonCall(source, { needsArguments, isNested: true });
      if (!nested) return undefined;
    } else if (key === "name" || key === "function") {
      name = yield* takeWord(input, MAX_NAME);
      if (name === undefined || !source.tools.has(name)) return undefined;
    } else if (key !== "id" && key !== "type") return undefined;
    else if ((yield* takeWord(input, MAX_NAME)) === undefined) return undefined;
    yield* takeBlanks(input);
    const next = yield* takeMark(input, [",", "}"]);
    if (next === undefined) return undefined;
    if (next === "}") break;
  }
  if (nested) return nested;
  if (sink) return args === undefined ? undefined : [];
  if (name === undefined || (args === undefined && needsArguments)) return undefined;
  return [{ name, args: args ?? "{}" }];
}

/** Takes a JSON string of characters that names and ids have; it ends at any other one. */
function* takeWord(input: CallInput, most: number): Reading<string | undefined> {
  if ((yield* takeMark(input, ['"'])) === undefined) return undefined;
  const word = yield* takeWhile(input, /[\w.:-]/, most);
  return (yield* takeMark(input, ['"'])) && word;
}

/** Passes on the value of a bound call, whose head has to be one of those that the grammar writes. */
function* boundValue(
  source: CallSource,
  { name, key }: { readonly name: string | undefined; readonly key: string },
): Reading<string | undefined> {
  const isWritten = name !== undefined && jsonStyles(name, key).some(({ begin }) => begin === source.input.recent);
  return isWritten ? yield* passedValue(source, name) : undefined;
}

function* passedValue({ input, sink }: CallSource, name: string): Reading<string | undefined> {
  sink?.begin({ name, args: "" });
  return yield* takeValue(input, (piece) => sink?.pass(piece));
}

/** Reads arguments that are an object, the JSON of one in a string, or `null`. @returns their JSON */
function* freeValue(input: CallInput): Reading<string | undefined> {
  switch (yield* peek(input)) {
    case '"':
      return argumentsJson(yield* takeString(input));
    case "n":
      return (yield* takeMark(input, ["null"])) && "{}";
    default:
      return argumentsJson(yield* takeValue(input));
  }
}

/** Reads JSON without marks, which has to end its line. */
export function* bareBody(source: CallSource): Reading<ReadCalls> {
  const { input, sink } = source;
  const calls = yield* jsonValue(source, true);
  if (!calls) return undefined;
  yield* takeWhile(input, /[ \t]/);
  if ((yield* takeMark(input, [";"])) !== undefined || sink) return calls;
  const next = yield* peek(input);
  return next === "" || "\r\n<".includes(next) ? calls : undefined;
}

/** Languages of blocks of code that have calls. */
const LANGUAGES = new Set(["", "json", "tool", "tool_call", "tool_calls", "tool_code", "function_call", "xml"]);
const PYTHON = "tool_code";

/** Reads a block of code behind its fence. */
export function* fencedBody(source: CallSource): Reading<ReadCalls> {
  const { input } = source;
  const language = yield* takeWhile(input, /\w/, MAX_KEY);
  if (!LANGUAGES.has(language)) return undefined;
  yield* takeBlanks(input);
  const tag = yield* takeMark(input, ["<tool_call>", "<tools>"]);
  yield* takeBlanks(input);
  const isPython = language === PYTHON && /\w/.test(yield* peek(input));
  const calls = isPython ? yield* pythonBody(source) : yield* jsonValues(source, true);
  if (!calls) return undefined;
  yield* takeBlanks(input);
  if (tag !== undefined) yield* takeMark(input, [tag.replace("<", "</")]);
  yield* takeBlanks(input);
  const isClosed = (yield* takeMark(input, ["```"])) !== undefined;
  return isClosed || source.sink || (yield* peek(input)) === "" ? calls : undefined;
}

/** Takes the name of a function that may be called. */
function* takeName({ input, tools }: CallSource): Reading<string | undefined> {
  const name = yield* takeWhile(input, /[\w-]/, MAX_NAME);
  return tools.has(name) ? name : undefined;
}

/** Reads the arguments of a function whose name was read. */
function* namedCall(source: CallSource, name: string | undefined): Reading<ReadCalls> {
  if (name === undefined) return undefined;
  if (source.sink) return (yield* passedValue(source, name)) === undefined ? undefined : [];
  const args = argumentsJson(yield* takeValue(source.input));
  return args === undefined ? undefined : [{ name, args }];
}

/** Reads Mistral's `name[ARGS]{…}`. */
export function* mistralBody(source: CallSource): Reading<ReadCalls> {
  const { input } = source;
  const name = yield* takeName(source);
  if ((yield* takeMark(input, ["[CALL_ID]"])) !== undefined) yield* takeWhile(input, /\w/, MAX_NAME);
  yield* takeMark(input, ["[ARGS]"]);
  return yield* namedCall(source, name);
}

/** Reads the rest of a message of gpt-oss behind `to=functions.`: a name, a header, and JSON. */
export function* harmonyBody(source: CallSource): Reading<ReadCalls> {
  const name = yield* takeName(source);
  const header = yield* takeWhile(source.input, /[^{]/, MAX_NAME);
  return yield* namedCall(source, header.trimEnd().endsWith("<|message|>") ? name : undefined);
}

const [DEEPSEEK_BEGIN, DEEPSEEK_NAME, DEEPSEEK_END] = [
  "<｜tool▁call▁begin｜>",
  "<｜tool▁sep｜>",
  "<｜tool▁call▁end｜>",
];

/** Reads DeepSeek's calls, with or without a type before the name and a fence around the JSON. */
export function* deepseekBody(source: CallSource): Reading<ReadCalls> {
  const { input } = source;
  const calls: Call[] = [];
  yield* takeMark(input, [DEEPSEEK_BEGIN]);
  do {
    yield* takeBlanks(input);
    const word = yield* takeWhile(input, /[\w-]/, MAX_NAME);
    if ((yield* takeMark(input, [DEEPSEEK_NAME])) === undefined) return undefined;
    const isName = (yield* peek(input)) === "{";
    const name = isName ? (source.tools.has(word) ? word : undefined) : yield* takeName(source);
    yield* takeMark(input, ["\n```json\n"]);
    const read = yield* namedCall(source, name);
    if (!read) return undefined;
    calls.push(...read);
    yield* takeMark(input, ["\n```"]);
    yield* takeMark(input, [DEEPSEEK_END]);
    yield* takeBlanks(input);
  } while ((yield* takeMark(input, [DEEPSEEK_BEGIN])) !== undefined);
  return calls;
}

const FUNCTION = "<function=";

/** Reads calls of Qwen 3 Coder: `<function=name><parameter=key>value</parameter></function>`. */
export function* xmlBody(source: CallSource): Reading<ReadCalls> {
  const mark = yield* takeMark(source.input, [FUNCTION]);
  return mark === undefined ? undefined : yield* functionsBody(source);
}

/** Reads the same behind the first `<function=`, or Functionary's calls, which have JSON instead of parameters. */
export function* functionsBody(source: CallSource): Reading<ReadCalls> {
  const { input, sink } = source;
  const calls: Call[] = [];
  do {
    const name = yield* takeName(source);
    if (name === undefined || sink || (yield* takeMark(input, [">"])) === undefined) return undefined;
    const isJson = (yield* peek(input)) === "{";
    const args = isJson ? argumentsJson(yield* takeValue(input)) : yield* takePairs(source, name, XML_PAIRS);
    yield* takeBlanks(input);
    if (args === undefined || (yield* takeMark(input, ["</function>"])) === undefined) return undefined;
    calls.push({ name, args });
    yield* takeBlanks(input);
  } while ((yield* takeMark(input, [FUNCTION])) !== undefined);
  return calls;
}

/** Reads calls of GLM: a name, then `<arg_key>key</arg_key><arg_value>value</arg_value>`. */
export function* pairsBody(source: CallSource): Reading<ReadCalls> {
  const name = yield* takeName(source);
  if (name === undefined || source.sink) return undefined;
  const args = yield* takePairs(source, name, GLM_PAIRS);
  const mark = yield* takeMark(source.input, ["</tool_call>"]);
  return args === undefined || mark === undefined ? undefined : [{ name, args }];
}

/** Marks of arguments that are texts: before a key, between it and its value, and behind the value. */
const XML_PAIRS = { begin: "<parameter=", between: [">"], end: "</parameter>", padding: /^\n|\n$/g };
const GLM_PAIRS = { begin: "<arg_key>", between: ["</arg_key>", "<arg_value>"], end: "</arg_value>", padding: /(?!)/g };

/** Reads arguments that are texts, as far as they go. @returns their JSON */
function* takePairs(source: CallSource, name: string, marks: typeof XML_PAIRS): Reading<string | undefined> {
  const { input, tools } = source;
  const args: (readonly [string, unknown])[] = [];
  for (;;) {
    yield* takeBlanks(input);
    if ((yield* takeMark(input, [marks.begin])) === undefined) return objectJson(Object.fromEntries(args));
    const key = yield* takeWhile(input, /[^<>\n]/, 2 * MAX_NAME);
    for (const mark of marks.between) {
      yield* takeBlanks(input);
      if ((yield* takeMark(input, [mark])) === undefined) return undefined;
    }
    const value = yield* takeUntil(input, marks.end);
    if (value === undefined) return undefined;
    args.push([key, typedValue(tools.get(name), key, value.replaceAll(marks.padding, ""))]);
  }
}

/** Gives a text the type that its schema asks for. */
function typedValue(schema: unknown, key: string, text: string): unknown {
  const properties = isRecord(schema) ? schema["properties"] : undefined;
  const own = isRecord(properties) && Object.hasOwn(properties, key) ? properties[key] : undefined;
  return isRecord(own) && own["type"] === "string" ? text : valueOf(text);
}

/** Reads calls in Python: `name(key=value)`, alone, in `print(…)` or in a list. */
export function* pythonBody(source: CallSource): Reading<ReadCalls> {
  const { input, sink } = source;
  const isList = (yield* takeMark(input, ["["])) !== undefined;
  if (isList) yield* takeBlanks(input);
  if (isList && (yield* peek(input)) === "{") return yield* jsonItems(source, false);
  const calls: Call[] = [];
  for (;;) {
    const isPrinted = (yield* takeMark(input, ["print("])) !== undefined;
    const name = yield* takeName(source);
    if (name === undefined || sink || (yield* takeMark(input, ["("])) === undefined) return undefined;
    const args = argumentsJson(pythonAsJson((yield* takeParenthesized(input)) ?? ")"));
    if (args === undefined || (isPrinted && (yield* takeMark(input, [")"])) === undefined)) return undefined;
    calls.push({ name, args });
    yield* takeWhile(input, /[ \t\r\n,;]/);
    if (isList && (yield* takeMark(input, ["]"])) !== undefined) return calls;
    if (!/\w/.test(yield* peek(input))) return isList ? undefined : calls;
  }
}

/** Takes text up to the bracket that closes an open one, and the bracket. */
function* takeParenthesized(input: CallInput): Reading<string | undefined> {
  let [text, quote] = ["", ""];
  for (let depth = 1; ;) {
    const next = yield* peek(input);
    if (next === "") return undefined;
    input.take(1);
    if (quote !== "") {
      text += next;
      if (next === "\\") {
        text += yield* peek(input);
        input.take(1);
      } else if (next === quote) quote = "";
      continue;
    }
    if (next === '"' || next === "'") quote = next;
    else if ("([{".includes(next)) depth++;
    else if (")]}".includes(next) && --depth === 0) return text;
    text += next;
  }
}

const PYTHON_WORDS: Readonly<Record<string, string>> = { True: "true", False: "false", None: "null" };

/** Writes arguments by name as JSON, as far as they are literals; the rest stays, and is no JSON. */
function pythonAsJson(text: string): string {
  const parts = /"(?:[^"\\]|\\[^])*"|'((?:[^'\\]|\\[^])*)'|([A-Za-z_]\w*)(\s*=)?|[^]/g;
  const json = text.replaceAll(parts, (part, inner?: string, word?: string, sign?: string) => {
    if (inner !== undefined) return `"${inner.replaceAll(/\\[^]|"/g, doubleQuoted)}"`;
    if (word === undefined) return part;
    return sign === undefined ? (PYTHON_WORDS[word] ?? part) : `${JSON.stringify(word)}:`;
  });
  return `{${json.trim().replace(/,$/, "")}}`;
}

/** Writes a quote, or an escaped character, as a string in double quotes has it. */
function doubleQuoted(text: string): string {
  if (text === '"') return '\\"';
  return text === "\\'" ? "'" : text;
}

/** Makes the reader of `call:name{key:value}` of function-gemma and Gemma 4, up to its end mark. */
export function gemmaBody(quote: string, end: string): CallBody {
  return function* read(source) {
    const { input, sink } = source;
    if ((yield* takeMark(input, ["call:"])) === undefined) return undefined;
    const name = yield* takeName(source);
    if (name === undefined || sink || (yield* peek(input)) !== "{") return undefined;
    const text = yield* takeUntil(input, end);
    const args = argumentsJson(text && gemmaAsJson(text, quote));
    return args === undefined ? undefined : [{ name, args }];
  };
}

function gemmaAsJson(text: string, quote: string): string {
  return text
    .split(quote)
    .map((part, index) =>
      index % 2 === 1
        ? JSON.stringify(part)
        : part.replaceAll(/([A-Za-z_][\w-]*)(\s*:)?/g, (whole, word: string, sign?: string) =>
            sign === undefined ? whole : `${JSON.stringify(word)}:`,
          ),
    )
    .join("");
}
