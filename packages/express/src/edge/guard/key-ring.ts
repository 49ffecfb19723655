// API keys, compared so that the time it takes says nothing about them: all keys are hashed to the same length, and every
// hash is compared, whichever fits.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

interface NamedKey {
  /** What the key is called in limits, logs and metrics, which must not show the key itself. */
  readonly name: string;
  readonly key: string;
}

type Equal = (a: Buffer, b: Buffer) => boolean;

export class KeyRing {
  /** Hashes are of use in this process alone. */
  readonly #secret = randomBytes(32);
  readonly #hashes: readonly { readonly name: string; readonly hash: Buffer }[];
  readonly #equal: Equal;

  /**
   * @param keys - by name, or a list: the n-th is called `key-n`
   * @param equal - has to take the same time whatever it compares
   * @throws {TypeError} on empty keys, and on a key that is there twice
   */
  constructor(keys: readonly string[] | Readonly<Record<string, string>>, equal: Equal = timingSafeEqual) {
    const named = namedKeys(keys);
    this.#equal = equal;
    this.#hashes = named.map(({ name, key }) => ({ name, hash: this.#hash(key) }));
  }

  /** @returns the key's name, or `undefined` for a key that is not here */
  nameOf(presented: string): string | undefined {
    const presentedHash = this.#hash(presented);
    let found: string | undefined;
    for (const { name, hash } of this.#hashes) if (this.#equal(hash, presentedHash)) found = name;
    return found;
  }

  #hash(key: string): Buffer {
    return createHmac("sha256", this.#secret).update(key).digest();
  }
}

function namedKeys(keys: readonly string[] | Readonly<Record<string, string>>): readonly NamedKey[] {
  const named = isList(keys)
    ? keys.map((key, index) => ({ name: `key-${index + 1}`, key }))
    : Object.entries(keys).map(([name, key]) => ({ name, key }));
  if (named.length === 0) throw new TypeError("Expected `keys` to have at least one key");
  for (const { name, key } of named) {
    // The key itself must not get into a log, so it is not shown.
    if (typeof key !== "string" || key === "") throw new TypeError(`Expected key \`${name}\` to be a non-empty string`);
    if (/[^\x21-\x7e]/.test(key))
      throw new TypeError(`Expected key \`${name}\` to have printable ASCII characters only`);
  }
  if (new Set(named.map(({ key }) => key)).size < named.length) throw new TypeError("Expected `keys` to be distinct");
  return named;
}

function isList(keys: readonly string[] | Readonly<Record<string, string>>): keys is readonly string[] {
  return Array.isArray(keys);
}
