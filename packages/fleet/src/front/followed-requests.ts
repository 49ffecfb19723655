// All requests of a front: entries come as messages, and what does not come is asked for.

import { type GenerateChunk, GenerationStream, type ReadMeEmitter, ReadMeError } from "@readme-moe/core";
import type { Connection } from "../connect.ts";
import type { JobAdder, QueuePlace } from "../job-queues.ts";
import type { FleetJob } from "../job.ts";
import { FRONT_PREFIX } from "../keys.ts";
import type { ScriptedRedis } from "../log/scripts.ts";
import { AnswerProgress, type LoggedError, type News, readEntries, readEntry, readNews } from "../log/token-log.ts";

/** Parts of a front that its requests share. */
interface FollowSurroundings {
  readonly redis: ScriptedRedis;
  readonly frontId: string;
  /** Connection that receives messages. */
  readonly listening: Pick<Connection, "listen">;
  readonly adder: JobAdder;
  /** Time without Valkey after which requests fail. */
  readonly unreachableMs: number;
  /** Creates the error of these requests. */
  readonly unreachable: (cause: unknown) => Error;
}

interface Followed {
  readonly follower: Follower;
  /** Name of this reader of the request. */
  readonly reader: string;
  /** Stops listening to the caller's signal. */
  readonly detach: () => void;
  /** Time at which the server was last asked about it. */
  askedMs?: number;
  /** Whether an entry came before those ahead of it. */
  hasMissed?: boolean;
  submitted?: Submitted;
}

/** Job of a request: its id and queue, and all of it where this front has added it. */
interface Submitted {
  readonly jobId: string;
  readonly place: QueuePlace;
  readonly job?: FleetJob;
}

const [WATCH_MS, SILENT_MS, LOST_MS, MAX_WAIT_MS] = [250, 1000, 5000, 30_000] as const;

/** The requests of a front, by the ids that callers know. */
export class FollowedRequests {
  readonly #around: FollowSurroundings;
  readonly #requests = new Map<string, Followed>();
  readonly #idOfJob = new Map<string, string>();
  readonly #timer: NodeJS.Timeout;
  /** Time of the last answer of Valkey. */
  #answeredMs = performance.now();

  constructor(around: FollowSurroundings) {
    this.#around = around;
    // Entries that are missed during a reconnection are read afterwards.
    around.listening.listen([`${FRONT_PREFIX}${around.frontId}`], (_, message) => {
      for (const news of readNews(message)) this.#hear(news);
    });
    this.#timer = setInterval(() => this.#watch(), WATCH_MS);
    this.#timer.unref();
  }

  has(id: string): boolean {
    return this.#requests.has(id);
  }

  ids(): readonly string[] {
    return [...this.#requests.keys()];
  }

  add(id: string, followed: Followed): void {
    this.#requests.set(id, followed);
  }

  /** Job of a request, and its reader here; nothing before the job is added. */
  readingOf(id: string): (Submitted & { readonly reader: string }) | undefined {
    const followed = this.#requests.get(id);
    return followed?.submitted && { ...followed.submitted, reader: followed.reader };
  }

  /** Listens to the entries of a request. */
  listen(id: string, submitted: Submitted): void {
    const followed = this.#requests.get(id);
    if (!followed) return;
    followed.submitted = submitted;
    this.#idOfJob.set(submitted.jobId, id);
  }

  /** Reads the entries of a request that are there. Those that come meanwhile are heard. */
  async catchUp(id: string): Promise<void> {
    for (;;) {
      const followed = this.#requests.get(id);
      if (!followed) return;
      const { place } = followed.follower;
      await this.#read(id, followed, place);
      if (followed.follower.place === place) return;
    }
  }

  /** Ends a request that another connection goes on with. */
  giveUp(id: string): void {
    this.fail(id, new ReadMeError("ERR_TAKEN_OVER", "Another connection goes on with this answer"));
    this.forget(id);
  }

  fail(id: string, error: unknown): void {
    this.#requests.get(id)?.follower.fail(error);
  }

  /** Forgets a request that has ended. */
  forget(id: string): void {
    const followed = this.#requests.get(id);
    if (!followed) return;
    this.#requests.delete(id);
    followed.detach();
    if (followed.submitted) this.#idOfJob.delete(followed.submitted.jobId);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #hear(news: News): void {
    const id = this.#idOfJob.get(news.jobId);
    const followed = id === undefined ? undefined : this.#requests.get(id);
    if (id === undefined || !followed) return;
    if ("reader" in news) {
      if (news.reader !== followed.reader) this.giveUp(id);
      return;
    }
    this.#answeredMs = performance.now();
    this.#take(id, followed, [news.place, news.entry]);
  }

  #take(id: string, followed: Followed, [place, entry]: readonly [number, string]): void {
    const state = followed.follower.take(place, entry, performance.now());
    if (state === "behind") {
      followed.hasMissed = true;
      void this.#read(id, followed, followed.follower.place).catch(() => undefined);
    }
    if (state === "ended") this.forget(id);
  }

  /** Reads the entries behind a place, and those that came too early meanwhile. */
  async #read(id: string, followed: Followed, after: number): Promise<void> {
    const { follower, submitted } = followed;
    if (follower.isReading || !submitted) return;
    follower.isReading = true;
    try {
      let before: number;
      let from = after;
      do {
        before = follower.place;
        followed.hasMissed = false;
        const entries = await readEntries(this.#around.redis, submitted.jobId, from);
        this.#answeredMs = performance.now();
        for (const found of entries) this.#take(id, followed, found);
        from = follower.place;
      } while (followed.hasMissed && follower.place !== before);
    } finally {
      follower.isReading = false;
    }
  }

  /** Asks for what did not come, and fails requests when nothing answers. */
  #watch(): void {
    const nowMs = performance.now();
    for (const [id, followed] of this.#requests) {
      const { follower, askedMs = 0 } = followed;
      if (!followed.submitted || follower.isReading || nowMs - Math.max(follower.heardMs, askedMs) < SILENT_MS)
        continue;
      followed.askedMs = nowMs;
      void this.#ask(id, followed).catch((error: unknown) => {
        const answeredMs = Math.max(this.#answeredMs, follower.heardMs);
        if (performance.now() - answeredMs < this.#around.unreachableMs) return;
        follower.fail(this.#around.unreachable(error));
        this.forget(id);
      });
    }
  }

  /** Reads the log of a silent request, and adds its job again if it was lost. */
  async #ask(id: string, followed: Followed): Promise<void> {
    const { follower, submitted } = followed;
    if (!submitted) return;
    const { jobId, job, place } = submitted;
    const { reader } = followed;
    const isLong = performance.now() - follower.heardMs > LOST_MS;
    follower.isReading = true;
    // A job leaves after its answer has ended, so the question about the job comes first.
    const hasJob = await this.#around.adder.has(jobId, place).finally(() => (follower.isReading = false));
    // After a loss other entries may stand at the places that were followed.
    await this.#read(id, followed, isLong ? 0 : follower.place);
    if (hasJob || follower.isOver) return;
    if (job) return this.#around.adder.add(job, place, { reader, maxWaitMs: MAX_WAIT_MS });
    follower.fail(new ReadMeError("ERR_ENGINE_FAILED", "The fleet has lost a request whose front has ended"));
    this.forget(id);
  }
}

// A request on a front: its answer as it grows in the log, and the stream that gives it to the caller.

/** State of a follower after an entry. "behind": entries before it are missing, and have to be read. */
type FollowState = "current" | "behind" | "ended";

interface FollowerOptions {
  readonly numChoices: number;
  readonly stream: GenerationStream;
  readonly nowMs: number;
  readonly onChunk: (chunk: GenerateChunk) => void;
  /** Called when the log has another token than it had before. */
  readonly onDifferent: () => void;
  readonly onFailed: () => void;
}

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
  readonly #about: FollowerOptions;

  constructor(about: FollowerOptions) {
    this.#about = about;
    this.stream = about.stream;
    this.heardMs = about.nowMs;
    this.#progress = new AnswerProgress(about.numChoices);
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
        this.#about.onDifferent();
        return this.fail(new ReadMeError("ERR_ENGINE_FAILED", "Two workers of the fleet gave different tokens"));
      case "old":
        this.place = Math.max(this.place, place);
        break;
      case "new":
        this.heardMs = nowMs;
        this.place = place;
        this.#about.onChunk(novelty.chunk);
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

  fail(error: unknown): "ended" {
    if (this.#isOver) return "ended";
    this.#isOver = true;
    this.#about.onFailed();
    this.stream.fail(error);
    return "ended";
  }
}

function fromLogged({ kind, code, message }: LoggedError): Error {
  if (kind === "TypeError") return new TypeError(message);
  if (kind === "RangeError") return new RangeError(message);
  return new ReadMeError(code ?? "ERR_ENGINE_FAILED", message);
}

// The events of a front's requests, as an engine in this process would emit them.

export class SequenceEvents {
  readonly #events: ReadMeEmitter;
  readonly #requestId: string;
  readonly #numChoices: number;
  readonly #queuedMs: number;
  #promptTokens = 0;
  readonly #choices: { numTokens: number; lastMs: number; isOver: boolean }[];

  constructor(events: ReadMeEmitter, requestId: string, numChoices: number, nowMs: number) {
    this.#events = events;
    this.#requestId = requestId;
    this.#numChoices = numChoices;
    this.#queuedMs = nowMs;
    this.#choices = Array.from({ length: numChoices }, () => ({ numTokens: 0, lastMs: nowMs, isOver: false }));
  }

  queued(promptTokens: number, numWaiting: number): void {
    this.#promptTokens = promptTokens;
    for (let choice = 0; choice < this.#numChoices; choice++) {
      this.#events.emit("sequence:queued", { sequenceId: this.#idOf(choice), promptTokens, numWaiting });
    }
  }

  chunk({ choice, tokens, finishReason }: GenerateChunk, nowMs: number): void {
    const state = this.#choices[choice];
    if (!state) return;
    for (const { id: tokenId } of tokens) {
      const position = this.#promptTokens + state.numTokens;
      const about = { tokenId, position, sinceMs: nowMs - state.lastMs, isFirst: state.numTokens === 0 };
      this.#events.emit("token:generated", { sequenceId: this.#idOf(choice), ...about });
      state.numTokens++;
      state.lastMs = nowMs;
    }
    if (finishReason !== undefined) this.#finish(choice, finishReason, nowMs);
  }

  ended(reason: "abort" | "error", nowMs: number): void {
    for (let choice = 0; choice < this.#numChoices; choice++) this.#finish(choice, reason, nowMs);
  }

  #finish(choice: number, reason: "stop" | "length" | "abort" | "error", nowMs: number): void {
    const state = this.#choices[choice];
    if (!state || state.isOver) return;
    state.isOver = true;
    this.#events.emit("sequence:finished", {
      sequenceId: this.#idOf(choice),
      reason,
      promptTokens: this.#promptTokens,
      completionTokens: state.numTokens,
      cachedTokens: 0,
      acceptedDraftTokens: 0,
      rejectedDraftTokens: 0,
      queuedMs: 0,
      durationMs: nowMs - this.#queuedMs,
    });
  }

  #idOf(choice: number): string {
    return this.#numChoices === 1 ? this.#requestId : `${this.#requestId}/${choice}`;
  }
}
