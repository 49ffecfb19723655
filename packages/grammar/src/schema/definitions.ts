import { describeValue, isRecord } from "@readme-moe/core";
import { refused, type SchemaObject } from "./keywords.ts";
import type { Place, Visit } from "./types.ts";

const PREFIX = "#/$defs/";

/** Parts of a schema that `$ref` names. Each is visited once and gets a new name. */
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

  /**
   * Refers to a part. @throws {TypeError} when it does not exist, or refers to itself without an object or array
   * between
   */
  refer(pointer: unknown, place: Place, visit: Visit): SchemaObject {
    if (typeof pointer !== "string" || !/^#(\/|$)/.test(pointer)) {
      throw refused(place.path, `has \`$ref\` ${describeValue(pointer)}; expected a place in the same schema`);
    }
    if (place.entered.has(pointer)) throw refused(place.path, `has \`$ref\` that refers to itself`);
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

  /** Follows a part that only refers to another; `undefined` while that one is being read. */
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
      const inner = isRecord(found) || Array.isArray(found) ? Object.getOwnPropertyDescriptor(found, key) : undefined;
      if (inner === undefined) throw refused(path, `has \`$ref\` ${describeValue(pointer)}, where there is nothing`);
      found = inner.value;
    }
    return found;
  }
}

/** Reads the name that a part refers to. */
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
