const KEY = /^[0-9a-f]{64}\.[a-z0-9.-]{1,64}$/;

/** Refuses what could be a path. @throws {TypeError} unless `key` is a hash and a name */
export function checkedKey(key: string): string {
  if (KEY.test(key)) return key;
  throw new TypeError("Expected the key of an artefact to be a hash and a name, got another");
}
