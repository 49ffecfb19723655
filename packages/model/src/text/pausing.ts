// Work on long texts in short steps: a generator yields where its caller may do something else.

/** Number of UTF-16 units that are worked on between two pauses. */
export const CHUNK_LENGTH: number = 2 ** 14;

/** Runs work to its end without a pause. */
export function finish<Result>(work: Generator<void, Result>): Result {
  for (;;) {
    const { done, value } = work.next();
    if (done === true) return value;
  }
}

/** Returns the end of the chunk that begins at `start`, which is never inside a surrogate pair. */
export function chunkEnd(text: string, start: number): number {
  const end = Math.min(start + CHUNK_LENGTH, text.length);
  return end < text.length && isTrailSurrogate(text.charCodeAt(end)) ? end + 1 : end;
}

/** Applies `map`, which works character by character, to each chunk of a text. */
export function* mapChunks(text: string, map: (chunk: string) => string): Generator<void, string[]> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = chunkEnd(text, start);
    parts.push(map(text.slice(start, end)));
    start = end;
    yield;
  }
  return parts;
}

/** Replaces every `from` in `text`, from left to right. */
export function* replaceInChunks(text: string, from: string, to: string): Generator<void, string> {
  const parts: string[] = [];
  for (let start = 0; start < text.length;) {
    const end = Math.min(start + CHUNK_LENGTH + from.length, text.length);
    const chunk = text.slice(start, end);
    const lastMatch = lastMatchEnd(chunk, from);
    // A match that crosses the end begins in the last `from.length - 1` characters.
    const length = end === text.length ? chunk.length : Math.max(lastMatch, chunk.length - from.length + 1);
    parts.push(chunk.slice(0, length).replaceAll(from, () => to));
    start += length;
    if (start < text.length) yield;
  }
  return parts.join("");
}

/** Returns the end of the last match of a search from the left, 0 without a match. */
function lastMatchEnd(text: string, pattern: string): number {
  let end = 0;
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, end)) end = at + pattern.length;
  return end;
}

function isTrailSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}
