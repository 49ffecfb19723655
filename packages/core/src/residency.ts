/**
 * Which experts' weights are in memory. Asked once per step, after the step was scheduled and before it runs.
 */
export interface Residency {
  /** Bytes of each expert that are not in memory, by expert; those past its end are all there. */
  readonly missingBytes: ArrayLike<number>;
  /**
   * Sees to it that the step can run. Resolves when the weights it needs first are there.
   * @param experts - the distinct experts of the step's tokens
   */
  prepare(experts: ReadonlySet<number>): Promise<void>;
}

/** All experts are in the graph, so there is nothing to do. */
export const everythingResident: Residency = { missingBytes: [], prepare: async () => undefined };
