import { StreamingDecoder, type Tokenizer } from "@readme-moe/model";
import type { RoutedPiece } from "./report.ts";

/**
 * A text's tokens with their experts. A character that takes several tokens belongs to the last of them; bytes that are
 * no whole character at the end become U+FFFD of the last token. All pieces together are the decoded text.
 *
 * @param experts - of each token
 */
export function routedText(
  tokenizer: Tokenizer,
  tokenIds: ArrayLike<number>,
  experts: ArrayLike<number>,
): readonly RoutedPiece[] {
  const decoder = new StreamingDecoder(tokenizer);
  return Array.from({ length: tokenIds.length }, (_, index) => {
    const text = decoder.push(tokenIds[index] as number);
    const rest = index === tokenIds.length - 1 ? decoder.flush() : "";
    return { text: text + rest, expert: experts[index] as number };
  });
}
