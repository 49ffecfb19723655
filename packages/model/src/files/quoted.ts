const MAX_QUOTED_LENGTH = 200;

/** A name that a file gave, quoted for a message: escaped, and cut, since a hostile one can be as long as its file. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > MAX_QUOTED_LENGTH ? `${name.slice(0, MAX_QUOTED_LENGTH)}…` : name);
}
