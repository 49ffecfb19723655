// Ids of the parts of an answer.

import { createHash } from "node:crypto";

/**
 * Makes the ids of an answer's parts, such as its tool calls, from its own id: a server that goes on with the answer of
 * another one gives the same ids.
 */
export function partIds(answerId: string): (prefix: string, length?: number) => string {
  let count = 0;
  return (prefix, length = 32) => {
    const hash = createHash("sha256").update(`${prefix}/${answerId}/${count++}`).digest("hex");
    return `${prefix}_${hash.slice(0, length)}`;
  };
}
