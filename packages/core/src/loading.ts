// Progress of opening a model: its stages, their texts, and the time that is left at the rate so far.

/** Stages of opening a model, with their texts for people. */
export const LOAD_STAGES = {
  /** Comes first, for a model that is not on this machine. */
  downloading: "downloading",
  opening: "reading the model's description",
  tokenizer: "loading the tokenizer",
  /** Hashes a large file, when it is opened for the first time. */
  checking: "checking the file",
  /** Packs weights for this processor: when nothing is cached, or into memory at each opening. */
  building: "packing weights",
  loading: "loading weights",
  /** Measures the speed of this machine, when the model runs for the first time. */
  measuring: "measuring the speed",
} as const;

/** Stage of opening a model. */
export type LoadStage = keyof typeof LOAD_STAGES;

/** Progress of opening a model. `ofBytes` is 0 where the total is unknown. */
export interface LoadProgress {
  readonly stage: LoadStage;
  readonly doneBytes: number;
  readonly ofBytes: number;
}

/** Rate of the last seconds, and the time that is left at this rate. */
export interface Rate {
  /** `undefined` until there is one. */
  readonly bytesPerSecond: number | undefined;
  /** `undefined` without a rate. */
  readonly secondsLeft: number | undefined;
}

/** Progress of opening a model, with the rate of its stage. */
export interface MeteredProgress extends LoadProgress, Rate {}

interface Sample {
  readonly atMs: number;
  readonly bytes: number;
}

// Long enough to even out bursts, short enough to follow a line that changes its speed.
const WINDOW_MS = 5000;
// A rate from less time than this jumps with every chunk.
const LEAST_MS = 500;

/** Measures the rate of bytes that are done. Times are those of a clock that is never set. */
export class RateMeter {
  #samples: Sample[] = [];

  /** Forgets what was done before, which says nothing about what follows. */
  restart(): void {
    this.#samples = [];
  }

  update(doneBytes: number, ofBytes: number, nowMs: number): Rate {
    const recent = this.#samples.filter(({ atMs }) => atMs >= nowMs - WINDOW_MS);
    // Reports of large parts may be further apart than the window.
    const before = recent.length > 0 ? recent : this.#samples.slice(-1);
    this.#samples = [...before, { atMs: nowMs, bytes: doneBytes }];
    const first = this.#samples[0] ?? { atMs: nowMs, bytes: doneBytes };
    const durationMs = nowMs - first.atMs;
    const rate = durationMs < LEAST_MS ? undefined : ((doneBytes - first.bytes) / durationMs) * 1000;
    const bytesPerSecond = rate !== undefined && rate > 0 ? rate : undefined;
    const secondsLeft = bytesPerSecond === undefined ? undefined : Math.max(0, ofBytes - doneBytes) / bytesPerSecond;
    return { bytesPerSecond, secondsLeft };
  }
}

/** Adds rate and time left to the progress of opening one model. */
export class LoadMeter {
  readonly #rate = new RateMeter();
  #last: LoadProgress | undefined;

  update(progress: LoadProgress, nowMs: number): MeteredProgress {
    const { stage, doneBytes, ofBytes } = progress;
    const last = this.#last;
    // The next file of a download counts from 0 again.
    if (last?.stage !== stage || last.ofBytes !== ofBytes || doneBytes < last.doneBytes) this.#rate.restart();
    this.#last = progress;
    return { stage, doneBytes, ofBytes, ...this.#rate.update(doneBytes, ofBytes, nowMs) };
  }
}

/** Describes progress in words: `packing weights, 40 %`. */
export function loadText({ stage, doneBytes, ofBytes }: LoadProgress): string {
  const share = ofBytes > 0 ? `, ${Math.floor((100 * doneBytes) / ofBytes)} %` : "";
  return LOAD_STAGES[stage] + share;
}
