/**
 * Which experts' weights are in memory. Asked once per step, after the step was scheduled and before it runs.
 */
export interface Residency {
  /**
   * Sees to it that the step can run. Resolves when the weights it needs first are there.
   * @param experts - the distinct experts of the step's tokens
   */
  prepare(experts: ReadonlySet<number>): Promise<void>;
}

/** All experts are in the graph, so there is nothing to do. */
export const everythingResident: Residency = { prepare: async () => undefined };
