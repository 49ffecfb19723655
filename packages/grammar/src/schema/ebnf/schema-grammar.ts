// Writes the grammar of a schema's answers. The library (0.1.27, the newest) converts schemas as well, but it
// allows decimals outside their bounds, quotes that end a string with a pattern and February 30, and aborts on
// names with quotes.

import { isRecord } from "@readme-moe/core";
import { Budget, type GrammarText, MAX_SOURCE_CHARACTERS } from "../../grammar-source.ts";
import { type SchemaObject, type WideSchema, withoutLengths } from "../keywords.ts";
import { literal, leastLiteralLength } from "./code-points.ts";
import { decimalRange, integerRange } from "./number-range.ts";

const DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])';
const CLOCK = '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9]';
const TIME = `${CLOCK} ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [+-] ${CLOCK})`;
const LABEL = "[a-z0-9] ([a-z0-9-]{0,20} [a-z0-9])?";
const BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])';
const HEX = "[0-9a-fA-F]";

/**
 * Grammars of string formats, without quotes. They allow only strings that are valid beyond doubt, such as days to
 * the 28th.
 */
export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE} "T" ${TIME}`,
  uuid: `${HEX}{8} "-" ${HEX}{4} "-" ${HEX}{4} "-" ${HEX}{4} "-" ${HEX}{12}`,
  ipv4: `${BYTE} ("." ${BYTE}){3}`,
  ipv6: `${HEX}{1,4} (":" ${HEX}{1,4}){7}`,
  hostname: `${LABEL} ("." ${LABEL}){0,4}`,
  email: `[A-Za-z0-9_+-]{1,20} ("." [A-Za-z0-9_+-]{1,20}){0,2} "@" ${LABEL} ("." ${LABEL}){1,3}`,
  uri: `("http" "s"? | "ftp") "://" ${LABEL} ("." ${LABEL}){0,3} (":" [1-9] [0-9]{0,3})? ("/" [A-Za-z0-9._~-]*)* ("?" [A-Za-z0-9._~=&-]*)? ("#" [A-Za-z0-9._~-]*)?`,
};

const PLAIN = '[^"\\\\\\x00-\\x1f]';
const ESCAPED = '"\\\\" (["\\\\/bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))';
/**
 * Any characters of a string. Not `char*`: the library knows the tokens that stay within one rule in advance, and a
 * mask takes it 20 µs. With a rule for each character it tries all tokens each time, which takes it 75 ms.
 */
const CHARS = `${PLAIN}* (${ESCAPED} ${PLAIN}*)*`;

const JSON_RULES = `
string ::= "\\"" ${CHARS} "\\""
char ::= ${PLAIN} | ${ESCAPED}
integer ::= "-"? ("0" | [1-9] [0-9]{0,14})
number ::= integer ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws "}" | "{" ws member (ws "," ws member)* ws "}"
member ::= string ws ":" ws value
array ::= "[" ws "]" | "[" ws value (ws "," ws value)* ws "]"
`;

/** Grammars of a schema, as rules that `wholeGrammar` completes. */
export interface SchemaGrammars {
  readonly text: string;
  /** The grammar without bounds on the lengths of strings; `undefined` where masks cannot do without. */
  readonly wide: (Omit<WideSchema, "schema"> & { readonly text: string }) | undefined;
}

/** Completes rules. @param maxWhitespace - most blanks, tabs and line ends in a row between two parts */
export function wholeGrammar(rules: string, maxWhitespace: number): GrammarText {
  const whitespace = maxWhitespace === 0 ? '""' : `[ \\n\\t]{0,${maxWhitespace}}`;
  return { text: `${rules}\nws ::= ${whitespace}${JSON_RULES}`, root: "root" };
}

/** Writes the grammars of a schema. @param prefix - beginning of the rules' names @throws as `schemaGrammar` */
export function schemaGrammars(schema: SchemaObject, budget: Budget, prefix = ""): SchemaGrammars {
  const text = schemaGrammar(schema, budget, prefix);
  const wide = withoutLengths(schema);
  // Both have to fit into one source.
  if (!wide || text.length > MAX_SOURCE_CHARACTERS / 4) return { text, wide: undefined };
  const wideText = wide.hadBounds ? schemaGrammar(wide.schema, new Budget(), prefix) : text;
  return { text, wide: { text: wideText, hadBounds: wide.hadBounds, hasPatterns: wide.hasPatterns } };
}

/**
 * Writes the rules of a grammar.
 *
 * @param schema - the result of `honouredSchema`
 * @throws {RangeError} when the grammar becomes too long
 */
function schemaGrammar(schema: SchemaObject, budget: Budget, prefix: string): string {
  const rules: string[] = [];
  let numRules = 0;

  const rule = (body: string): string => {
    const name = `${prefix}r${numRules++}`;
    budget.write(name.length);
    rules.push(`${name} ::= ${body}`);
    return name;
  };

  const json = (value: unknown): string => {
    const text = JSON.stringify(value);
    budget.write(leastLiteralLength(text));
    return literal(text);
  };

  const counted = (body: string): string => {
    budget.write(body.length);
    return body;
  };

  const write = (part: SchemaObject): string => {
    const { $ref, anyOf, enum: values, type } = part;
    if (typeof $ref === "string") return `${prefix}def_${$ref.slice("#/$defs/".length)}`;
    if (Array.isArray(anyOf)) return `(${anyOf.map((one: SchemaObject) => write(one)).join(" | ")})`;
    if (Array.isArray(values)) return `(${values.map(json).join(" | ")})`;
    switch (type) {
      case "object":
        return writeObject(part);
      case "array":
        return writeArray(part);
      case "string":
        return writeString(part);
      case "integer":
      case "number":
        return writeNumber(part);
      case "boolean":
        return '("true" | "false")';
      case "null":
        return '"null"';
      default:
        return "value";
    }
  };

  const writeObject = ({ properties, required, additionalProperties: additional }: SchemaObject): string => {
    if (!isRecord(properties)) {
      if (additional === true) return "object";
      if (!isRecord(additional)) return '("{" ws "}")';
      const member = rule(`string ws ":" ws ${write(additional)}`);
      return rule(`"{" ws "}" | "{" ws ${member} (ws "," ws ${member})* ws "}"`);
    }
    const needed = new Set(required as readonly string[]);
    const members = Object.entries(properties).map(([name, value]) => ({
      body: rule(`${json(name)} ws ":" ws ${write(value as SchemaObject)}`),
      isNeeded: needed.has(name),
    }));
    // Members keep their order. From the last to the first: the rest of the object after a member, and before any
    // member.
    let [after, first] = ['""', '""'];
    for (const { body, isNeeded } of members.toReversed()) {
      const begin = `${body} ${after}`;
      first = isNeeded ? rule(begin) : rule(`${begin} | ${first}`);
      after = rule(isNeeded ? `ws "," ws ${begin}` : `ws "," ws ${begin} | ${after}`);
    }
    return rule(`"{" ws ${first} ws "}"`);
  };

  const writeArray = ({ items, prefixItems, minItems = 0, maxItems }: SchemaObject): string => {
    if (Array.isArray(prefixItems)) {
      const parts = prefixItems.map((one: SchemaObject) => write(one)).join(' ws "," ws ');
      return rule(parts === "" ? '"[" ws "]"' : `"[" ws ${parts} ws "]"`);
    }
    const none = '"[" ws "]"';
    if (maxItems === 0) return `(${none})`;
    const item = rule(write(items as SchemaObject));
    const least = Math.max(0, Number(minItems) - 1);
    const range = maxItems === undefined ? `{${least},}` : `{${least},${Number(maxItems) - 1}}`;
    const some = `"[" ws ${item} (ws "," ws ${item})${range} ws "]"`;
    return rule(minItems === 0 ? `${none} | ${some}` : some);
  };

  const writeString = ({ minLength = 0, maxLength = "", pattern, format }: SchemaObject): string => {
    if (typeof pattern === "string") return rule(`"\\"" ${pattern} "\\""`);
    if (typeof format === "string") return rule(counted(`"\\"" ${FORMATS[format]} "\\""`));
    if (minLength === 0 && maxLength === "") return "string";
    if (maxLength === "") return rule(`"\\"" char{${String(minLength)}} ${CHARS} "\\""`);
    return rule(maxLength === 0 ? '"\\"" "\\""' : `"\\"" char{${String(minLength)},${String(maxLength)}} "\\""`);
  };

  const writeNumber = ({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }: SchemaObject): string => {
    const bounds = [minimum, maximum, exclusiveMinimum, exclusiveMaximum];
    if (bounds.every((bound) => bound === undefined)) return String(type);
    const most = type === "integer" ? Number.MAX_SAFE_INTEGER : 999_999_999_999_999;
    const [low, lowOpen] = [Number(minimum ?? -most), Number(exclusiveMinimum ?? -Infinity)];
    const [high, highOpen] = [Number(maximum ?? most), Number(exclusiveMaximum ?? Infinity)];
    if (type === "integer") return rule(counted(integerRange(low, high)));
    const range = { from: Math.max(low, lowOpen), to: Math.min(high, highOpen) };
    const isOpen = { isFromOpen: lowOpen >= low, isToOpen: highOpen <= high };
    return rule(counted(decimalRange({ ...range, ...isOpen }) as string));
  };

  const root = write(schema);
  const definitions = Object.entries((schema["$defs"] ?? {}) as Readonly<Record<string, SchemaObject>>).map(
    ([name, part]) => `${prefix}def_${name} ::= ${write(part)}`,
  );
  return [`${prefix}root ::= ${root}`, ...definitions, ...rules].join("\n");
}
