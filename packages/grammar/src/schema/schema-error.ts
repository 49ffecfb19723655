/** A place in a schema as a JSON pointer, `#` for the whole. */
export type SchemaPath = string;

export function below(path: SchemaPath, ...keys: readonly (string | number)[]): SchemaPath {
  return [path, ...keys.map((key) => String(key).replaceAll("~", "~0").replaceAll("/", "~1"))].join("/");
}

export function refused(path: SchemaPath, what: string): TypeError {
  return new TypeError(`The schema at \`${path}\` ${what}`);
}

export type SchemaObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is SchemaObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
