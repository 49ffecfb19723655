// A request on a front: its answer as it grows in the log, and the stream that gives it to the caller.

import { GenerationStream, ReadMeError, type GenerateChunk } from "@readme-moe/core";
import { readEntry, type LoggedError } from "../log/entry.ts";
import { AnswerProgress } from "../log/progress.ts";

/** State of a follower after an entry. "behind": entries before it are missing, and have to be read. */
export type FollowState = "current" | "behind" | "ended";

/** Follows the log of one request. */
export class Follower {
  readonly stream: GenerationStream;
  /** Place of the last entry that was followed, as were all before it. */
  place = 0;
  /** Time at which something was last heard of the request, in ms of this process. */
  heardMs: number;
  /** Whether entries are being read. */
  isReading = false;
  #isOver = false;
  readonly #progress: AnswerProgress;
  readonly #onChunk: (chunk: GenerateChunk) => void;
  readonly #onDifferent: () => void;
  readonly #onFailed: () => void;

  constructor(about: {
    readonly numChoices: number;
    readonly stream: GenerationStream;
    readonly nowMs: number;
    readonly onChunk: (chunk: GenerateChunk) => void;
    /** Called when the log has another token than it had before. */
    readonly onDifferent: () => void;
    readonly onFailed: () => void;
  }) {
    this.stream = about.stream;
    this.heardMs = about.nowMs;
    this.#progress = new AnswerProgress(about.numChoices);
    this.#onChunk = about.onChunk;
    this.#onDifferent = about.onDifferent;
    this.#onFailed = about.onFailed;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Takes an entry of the log, which may have been taken before. */
  take(place: number, text: string, nowMs: number): FollowState {
    if (this.#isOver) return "ended";
    const entry = readEntry(text);
    if (!entry) return this.fail(new ReadMeError("ERR_ENGINE_FAILED", "The fleet's log of a request is not readable"));
    // The missing ones may be of another choice, and leave no gap in this one.
    if (place > this.place + 1) return "behind";
    if ("error" in entry) return this.fail(fromLogged(entry.error));
    const novelty = this.#progress.follow(entry);
    switch (novelty.kind) {
      case "gap":
        // The log has lost entries, and others stand at the places that were followed.
        this.place = 0;
        return "behind";
      case "different":
        this.#onDifferent();
        return this.fail(new ReadMeError("ERR_ENGINE_FAILED", "Two workers of the fleet gave different tokens"));
      case "old":
        this.place = Math.max(this.place, place);
        break;
      case "new":
        this.heardMs = nowMs;
        this.place = place;
        this.#onChunk(novelty.chunk);
        this.stream.push(novelty.chunk);
        break;
    }
    if (!this.#progress.hasEnded) return "current";
    this.#isOver = true;
    this.stream.end();
    return "ended";
  }

  /** Ends the request after its reader has left. */
  leave(): void {
    this.#isOver = true;
  }

  /** Ends the request with an error. */
  fail(error: unknown): "ended" {
    if (this.#isOver) return "ended";
    this.#isOver = true;
    this.#onFailed();
    this.stream.fail(error);
    return "ended";
  }
}

function fromLogged({ kind, code, message }: LoggedError): Error {
  if (kind === "TypeError") return new TypeError(message);
  if (kind === "RangeError") return new RangeError(message);
  return new ReadMeError(code ?? "ERR_ENGINE_FAILED", message);
}
