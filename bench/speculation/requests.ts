import type { Documents } from "./documents.ts";
import { chatRequests, randomRequests } from "./free-requests.ts";
import { jsonRequests } from "./json-requests.ts";
import { quoteRequests } from "./quote-requests.ts";
import type { DraftedRequest, Kind } from "./request.ts";

/** Facts that requests depend on. */
export interface RequestFacts {
  readonly documents: Documents;
  readonly vocabSize: number;
  readonly seed: number;
}

/** Lists candidates of a kind, in the order in which they are tried. */
export function requestsOf(kind: Kind, { documents, vocabSize, seed }: RequestFacts): readonly DraftedRequest[] {
  switch (kind) {
    case "quote":
      return quoteRequests(documents);
    case "json":
      return jsonRequests(documents);
    case "chat":
      return chatRequests(documents);
    case "random":
      return randomRequests(vocabSize, seed);
  }
}
