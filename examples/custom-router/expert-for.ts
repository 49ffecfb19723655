// The rule that chooses an expert by the text.

const CODE = /^\s*(import|from|def|class|function|const|let|#include|public|return)\b|[{};]\s*$|=>|\)\s*:\s*$/gm;
const PAPER = /\b(in this paper|we (show|prove|study|propose)|theorem|lemma)\b/i;

/** Chooses an expert for code, for papers or for other prose. @returns the name of an expert of the pocket model */
export function expertFor(text: string): "github" | "arxiv" | "book" {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const numCodeLines = lines.filter((line) => line.search(CODE) >= 0).length;
  if (numCodeLines > lines.length / 2) return "github";
  return PAPER.test(text) ? "arxiv" : "book";
}
