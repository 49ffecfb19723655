// Random values that a JSON Schema allows, for the part of it that descriptions of APIs use.

import * as fc from "./fast-check.ts";

export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | JsonSchema;
  readonly propertyNames?: JsonSchema;
  readonly items?: JsonSchema;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
}

const jsonValue = fc.jsonValue({ maxDepth: 3 });

export function valueOf(schema: JsonSchema): fc.Arbitrary<unknown> {
  if ("const" in schema) return fc.constant(schema.const);
  if (schema.enum) return fc.constantFrom(...schema.enum);
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return fc.oneof(...alternatives.map(valueOf));
  if (Array.isArray(schema.type)) return fc.oneof(...schema.type.map((type: string) => valueOf({ ...schema, type })));
  switch (schema.type) {
    case "null":
      return fc.constant(null);
    case "boolean":
      return fc.boolean();
    case "integer":
      return integers(schema);
    case "number":
      return numbers(schema);
    case "string":
      return strings(schema);
    case "array":
      return fc.array(valueOf(schema.items ?? {}), lengths(schema.minItems, schema.maxItems, 3));
    case "object":
      return objects(schema);
    case undefined:
      return jsonValue;
    default:
      throw new TypeError(`Expected a type of JSON, got ${JSON.stringify(schema.type)}`);
  }
}

function integers({ minimum = -1000, maximum = 1000 }: JsonSchema): fc.Arbitrary<number> {
  const small = fc.integer({ min: minimum, max: Math.min(maximum, minimum + 50) });
  const any = fc.bigInt({ min: BigInt(minimum), max: BigInt(maximum) }).map(Number);
  return fc.oneof(small, any);
}

function numbers({ minimum, maximum = 1e9, exclusiveMinimum }: JsonSchema): fc.Arbitrary<number> {
  const min = minimum ?? exclusiveMinimum ?? -1e9;
  const minExcluded = exclusiveMinimum !== undefined;
  return fc.oneof(
    fc.double({ min, max: maximum, noNaN: true, minExcluded }),
    fc.constantFrom(
      ...[0, 1, maximum].filter((value) => value <= maximum && (minExcluded ? value > min : value >= min)),
    ),
  );
}

function strings({ minLength, maxLength, pattern }: JsonSchema): fc.Arbitrary<string> {
  if (pattern !== undefined) {
    const matches = fc.stringMatching(new RegExp(pattern));
    return matches.filter((text) => text.length >= (minLength ?? 0) && text.length <= (maxLength ?? Infinity));
  }
  const size = lengths(minLength, maxLength, 12);
  return fc.oneof(fc.string(size), fc.string({ ...size, unit: "grapheme" }), fc.string({ ...size, unit: "binary" }));
}

function objects(schema: JsonSchema): fc.Arbitrary<object> {
  const { properties = {}, required = [], additionalProperties, propertyNames = { type: "string" } } = schema;
  if (Object.keys(properties).length === 0) {
    const values = typeof additionalProperties === "object" ? valueOf(additionalProperties) : jsonValue;
    return fc.dictionary(valueOf({ ...propertyNames }) as fc.Arbitrary<string>, values, { maxKeys: 3 });
  }
  const fields = Object.fromEntries(Object.entries(properties).map(([name, field]) => [name, valueOf(field)]));
  const optional = Object.keys(fields).filter((name) => !required.includes(name));
  // Few at a time: one that is refused hides all others.
  return fc
    .subarray(optional, { maxLength: Math.min(6, optional.length) })
    .chain((chosen) =>
      fc.record(
        Object.fromEntries([...required, ...chosen].map((name) => [name, fields[name] as fc.Arbitrary<unknown>])),
      ),
    );
}

function lengths(min = 0, max = Infinity, usual = 8): { readonly minLength: number; readonly maxLength: number } {
  return { minLength: min, maxLength: Math.min(max, min + usual) };
}
