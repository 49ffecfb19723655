// The rule: which expert a text is for, by looking at it.

const CODE = /^\s*(import|from|def|class|function|const|let|#include|public|return)\b|[{};]\s*$|=>|\)\s*:\s*$/gm;
const PAPER = /\b(in this paper|we (show|prove|study|propose)|theorem|lemma)\b/i;

/** Code goes to one expert, prose to others. @returns the name of one of the pocket model's experts */
export function expertFor(text: string): "github" | "arxiv" | "book" {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const numCodeLines = lines.filter((line) => line.search(CODE) >= 0).length;
  if (numCodeLines > lines.length / 2) return "github";
  return PAPER.test(text) ? "arxiv" : "book";
}
