import type { Documents } from "./documents.ts";
import { chatRequests, codeRequests, randomRequests } from "./free-requests.ts";
import { jsonRequests } from "./json-requests.ts";
import { predictedRequests, quoteRequests } from "./quote-requests.ts";
import type { DraftedRequest, Kind } from "./request.ts";

/** Facts that requests depend on. */
export interface RequestFacts {
  readonly documents: Documents;
  readonly vocabSize: number;
  readonly seed: number;
}

const MAKERS: Readonly<Record<Kind, (facts: RequestFacts) => readonly DraftedRequest[]>> = {
  quote: ({ documents }) => quoteRequests(documents),
  predicted: ({ documents }) => predictedRequests(documents),
  json: ({ documents }) => jsonRequests(documents),
  chat: ({ documents }) => chatRequests(documents),
  code: () => codeRequests(),
  random: ({ vocabSize, seed }) => randomRequests(vocabSize, seed),
};

/** Lists candidates of a kind, in the order in which they are tried. */
export function requestsOf(kind: Kind, facts: RequestFacts): readonly DraftedRequest[] {
  return MAKERS[kind](facts);
}
