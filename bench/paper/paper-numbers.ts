// Results of the paper (Read-ME, arXiv 2410.19123): Llama-2-7B-chat with seven experts of half width on one A100.

/** Table 4: hit ratios in %, by capacity of the cache in experts. */
export const HIT_RATIOS: Readonly<Record<"random" | "lru" | "belady", Readonly<Record<number, number>>>> = {
  random: { 2: 34.19, 3: 50.14, 4: 67.52, 5: 82.91 },
  lru: { 2: 33.9, 3: 52.42, 4: 66.95, 5: 83.48 },
  belady: { 2: 44.16, 3: 61.82, 4: 77.21, 5: 88.03 },
};

/** Section 5.3: distinct experts in a batch. */
export const DISTINCT_EXPERTS = { "decode-first": 5.08, "prefill-first": 5.21, "read-me": 3.51 } as const;

/** Figure 5, by its text: reduction of the latency per token against the other orders, in %. */
export const LESS_LATENCY = { mean: "5.0 to 6.1", p95: "9.5 to 10.0" } as const;

/** Section 5.3: tokens of 4,096 that keep the expert of the token before. */
export const LOCALITY = { readMe: 2921 / 4096, mixtral: 850 / 4096 } as const;

/** Figure 6: largest reduction of the latency against reads on demand at capacities of 2 to 5, in %. */
export const MOST_SAVED_BY_PREFETCH = 30;

/**
 * Figure 5, one request: reduction of the latency against the dense model, in %, and the router's share of the time.
 */
export const ONE_REQUEST = { lessThanDense: 19, routerShare: 0.4 } as const;

/** Tables 8 and 9, autoregressive router: milliseconds of a step by batch size, and the router's share in %. */
export const STEP_PARTS: Readonly<
  Record<number, { readonly router: number; readonly attention: number; readonly ffn: number; readonly share: number }>
> = {
  5: { router: 0.61, attention: 18.18, ffn: 21.75, share: 1.5 },
  10: { router: 0.61, attention: 18.13, ffn: 22.53, share: 1.48 },
  20: { router: 0.61, attention: 18.36, ffn: 22.99, share: 1.46 },
  30: { router: 0.61, attention: 19.66, ffn: 28.31, share: 1.26 },
};

/** Table 1 and section 5.1: parameters of the router, and parameters that a token uses. */
export const PARAMETERS = { router: 18e6, active: 4.7e9 } as const;

/** Table 5: perplexity of an equally tuned dense model of one expert's size, and of Read-ME. */
export const PERPLEXITIES: Readonly<Record<string, { readonly dense: number; readonly readMe: number }>> = {
  arxiv: { dense: 5.63, readMe: 4.18 },
  book: { dense: 1.94, readMe: 1.31 },
  c4: { dense: 11.78, readMe: 10.57 },
  common_crawl: { dense: 9.68, readMe: 7.72 },
  github: { dense: 3.75, readMe: 2.39 },
  stackexchange: { dense: 13.42, readMe: 12.52 },
  wikipedia: { dense: 6.24, readMe: 3.94 },
};
