/** A place in a schema as a JSON pointer, `#` for the whole. It is put together only where it is told. */
export type SchemaPath = string | { readonly parent: SchemaPath; readonly keys: readonly (string | number)[] };

const MAX_KEY_CHARACTERS = 80;

export function below(parent: SchemaPath, ...keys: readonly (string | number)[]): SchemaPath {
  return { parent, keys };
}

export function refused(path: SchemaPath, what: string): TypeError {
  return new TypeError(`The schema at \`${written(path)}\` ${what}`);
}

/** Cut where it is long: a name in a message. */
export function brief(name: string): string {
  return name.length > MAX_KEY_CHARACTERS ? `${name.slice(0, MAX_KEY_CHARACTERS)}…` : name;
}

function written(path: SchemaPath): string {
  if (typeof path === "string") return brief(path);
  const keys = path.keys.map((key) => brief(String(key)).replaceAll("~", "~0").replaceAll("/", "~1"));
  return [written(path.parent), ...keys].join("/");
}

export type SchemaObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is SchemaObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
