/** How far a refactoring has come. */
export interface RefactorProgress {
  readonly stage: string;
  /** Of `of`: layers, steps of training, or parts. */
  readonly done: number;
  readonly of: number;
}

/** Names and times what happens after each other. */
export class Stages {
  readonly times: { readonly name: string; readonly ms: number }[] = [];
  readonly #onProgress: ((progress: RefactorProgress) => void) | undefined;

  constructor(onProgress: ((progress: RefactorProgress) => void) | undefined) {
    this.#onProgress = onProgress;
  }

  async run<Result>(stage: string, work: () => Promise<Result>): Promise<Result> {
    this.report(stage, 0, 1);
    const start = performance.now();
    const result = await work();
    this.times.push({ name: stage, ms: performance.now() - start });
    return result;
  }

  report(stage: string, done: number, of: number): void {
    this.#onProgress?.({ stage, done, of });
  }
}
