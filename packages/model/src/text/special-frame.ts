import { corrupt } from "../files/json-object.ts";
import { libraryWith } from "./library-parts.ts";

/** What a post-processor puts before the text, behind it, and between it where it comes more than once. */
export type Frame = readonly (readonly number[])[];

export interface Frames {
  readonly withSpecial: Frame;
  readonly plain: Frame;
}

// No vocabulary has it.
const TEXT = "\u{10ffff}text";

/**
 * What `post_processor` of a tokenizer.json adds to a text.
 * @param idOf - of a token that it names
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`; what the library throws on one that it does not know
 */
export function readFrames(path: string, postProcessor: unknown, idOf: (token: string) => number | undefined): Frames {
  const { post_processor: built } = libraryWith({ post_processor: postProcessor });
  const frame = (addSpecialTokens: boolean): Frame => {
    const parts: number[][] = [[]];
    for (const token of built ? built.post_process([TEXT], null, addSpecialTokens).tokens : [TEXT]) {
      const id = token === TEXT ? undefined : idOf(token);
      if (token === TEXT) parts.push([]);
      else if (id !== undefined) parts.at(-1)?.push(id);
      else throw corrupt(path, "`post_processor` adds a token that is not in the vocabulary");
    }
    return parts;
  };
  return { withSpecial: frame(true), plain: frame(false) };
}
