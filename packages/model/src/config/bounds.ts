// Largest sizes that readers accept from a model's files. Memory and time are spent by them before a tensor has been
// looked at, so each is some times that of the largest published model, and at most what the kernel takes.

export const MOST = {
  layers: 4096,
  /** Heads of a layer. */
  heads: 4096,
  headSize: 4096,
  /** Width of the residual stream, of an FFN, or of one expert. */
  width: 262_144,
  vocab: 2_097_152,
  /** Experts of a layer with a router. */
  experts: 1024,
  expertsPerToken: 64,
  /** Experts of all layers together. */
  expertsOfLayers: 65_536,
  /** Experts that a route of a whole prompt or token can name, in 16 bits. */
  routedExperts: 65_536,
  /** Numbers that the keys of a token have, of all layers together. */
  keyValues: 4_194_304,
  /** Positions of a context. */
  tokens: 16_777_216,
  /** Entries of a list of token ids. */
  tokenIds: 1024,
  /** Integers that nothing is made from, such as windows and versions. */
  integer: 2_147_483_647,
} as const;
