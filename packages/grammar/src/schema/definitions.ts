import { describeValue } from "@readme-moe/core";
import { isObject, refused, type SchemaObject } from "./schema-error.ts";
import type { Place, Visit } from "./types.ts";

const PREFIX = "#/$defs/";

/** The parts of a schema that `$ref` names, each honoured once, under names of ours. */
export class Definitions {
  readonly #root: unknown;
  readonly #names = new Map<string, string>(); // by pointer
  readonly #honoured = new Map<string, SchemaObject>(); // by name
  readonly #resolved = new Map<string, SchemaObject>(); // by name; no references

  constructor(root: unknown) {
    this.#root = root;
  }

  get all(): ReadonlyMap<string, SchemaObject> {
    return this.#honoured;
  }

  /** @throws {TypeError} when there is nothing of that name here, or it leads back to itself with nothing between */
  refer(pointer: unknown, place: Place, visit: Visit): SchemaObject {
    if (typeof pointer !== "string" || !/^#(\/|$)/.test(pointer)) {
      throw refused(place.path, `has \`$ref\` ${describeValue(pointer)}; expected a place in the same schema`);
    }
    if (place.entered.has(pointer)) throw refused(place.path, `has \`$ref\` that leads to itself`);
    const known = this.#names.get(pointer);
    const name = known ?? `d${this.#names.size}`;
    if (known === undefined) {
      this.#names.set(pointer, name);
      const target = this.#find(pointer, place);
      const entered = new Set([...place.entered, pointer]);
      this.#honoured.set(name, visit(target, { path: pointer, depth: place.depth + 1, entered }));
    }
    return { $ref: `${PREFIX}${name}` };
  }

  /** What a part says that only refers to another; `undefined` while that is being read. */
  resolve(part: SchemaObject): SchemaObject | undefined {
    const names: string[] = [];
    let found: SchemaObject | undefined = part;
    for (let name = nameOf(found); found && name !== undefined; name = found && nameOf(found)) {
      names.push(name);
      found = this.#resolved.get(name) ?? this.#honoured.get(name);
    }
    // Chains of references are followed once.
    if (found) for (const name of names) this.#resolved.set(name, found);
    return found;
  }

  toSchema(): SchemaObject {
    return this.#honoured.size === 0 ? {} : { $defs: Object.fromEntries(this.#honoured) };
  }

  #find(pointer: string, { path }: Place): unknown {
    let found: unknown = this.#root;
    for (const raw of pointer.split("/").slice(1)) {
      const key = decodeKey(raw);
      const inner = isObject(found) || Array.isArray(found) ? Object.getOwnPropertyDescriptor(found, key) : undefined;
      if (inner === undefined) throw refused(path, `has \`$ref\` ${describeValue(pointer)}, where there is nothing`);
      found = inner.value;
    }
    return found;
  }
}

/** What a part refers to, if that is all it says. */
function nameOf({ $ref }: SchemaObject): string | undefined {
  return typeof $ref === "string" ? $ref.slice(PREFIX.length) : undefined;
}

function decodeKey(raw: string): string {
  let key = raw;
  try {
    key = decodeURIComponent(raw);
  } catch {
    // A percent sign that stands for itself.
  }
  return key.replaceAll("~1", "/").replaceAll("~0", "~");
}
