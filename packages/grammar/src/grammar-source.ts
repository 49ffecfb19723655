/** What a constraint is compiled from; plain data, so that it can go to a thread and name an entry of a cache. */
export type GrammarSource =
  | { readonly kind: "ebnf"; readonly text: string; readonly root: string }
  /** JSON of the library's structural tags: free text, regular expressions, and schemas between fixed texts. */
  | { readonly kind: "tags"; readonly format: string };

/** The same text for the same source, and for no other. */
export function sourceKey(source: GrammarSource): string {
  return JSON.stringify(source);
}
