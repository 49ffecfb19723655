// Prompts that the caller keeps, and their repetition in an engine that is opened again after a failure.

import {
  checkExpert,
  describeValue,
  rejectUnknownKeys,
  ReadMeError,
  type Generation,
  type Prompt,
  type ReadMeEvents,
} from "@readme-moe/core";
import type { WireKept, WirePrompt } from "../protocol.ts";
import type { CallingEngine } from "./calling-engine.ts";
import { wirePrompt } from "./request.ts";

/** Options of `ReadMeEngine.keepPrompt`. */
export interface KeepPromptOptions {
  /** Expert of every token, by name or index. Prompts of requests with another one do not begin with the same keys. */
  readonly expert?: string | number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A prompt whose keys and values stay in memory. */
export interface KeptPrompt {
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  /** Number of its first tokens that are kept: whole pages of 16. */
  readonly keptTokens: number;
  /** Origin of the keys and values: another kept prompt, the folder of saved prompts, or a run of the model. */
  readonly source: "memory" | "saved" | "computed";
  /** Lets the engine evict the prompt. Its saved file stays. Further calls do nothing. */
  release(): Promise<void>;
}

/** The engine that keeps prompts. */
interface KeepingEngine extends CallingEngine {
  /** Runs a prompt up to its first token. */
  readonly compute: (kept: WireKept, options: KeepPromptOptions) => Generation;
  readonly emit: (event: Parameters<ReadMeEvents["prompt:kept"]>[0]) => void;
}

interface Entry {
  readonly prompt: WirePrompt;
  readonly options: KeepPromptOptions;
  /** Id in the worker that runs now. */
  keptId: number;
}

export class KeptPrompts {
  readonly #engine: KeepingEngine;
  readonly #entries = new Set<Entry>();

  constructor(engine: KeepingEngine) {
    this.#engine = engine;
  }

  /** See `ReadMeEngine.keepPrompt`. */
  async keep(prompt: Prompt, options: KeepPromptOptions = {}): Promise<KeptPrompt> {
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`Expected the options of \`keepPrompt\` to be an object, got ${describeValue(options)}`);
    }
    rejectUnknownKeys("`keepPrompt`", options, ["expert", "signal"]);
    const info = this.#engine.getInfo();
    checkExpert(options.expert, info);
    const entry: Entry = { prompt: wirePrompt(prompt, info), options, keptId: 0 };
    const { kept, source } = await this.#keep(entry);
    // The signal ends this call, and not the repetition after a failure.
    const lasting: Entry = { ...entry, options: { expert: options.expert } };
    this.#entries.add(lasting);
    const release = async (): Promise<void> => {
      if (this.#entries.delete(lasting)) await this.#engine.call("releasePrompt", { keptId: lasting.keptId });
    };
    return { promptTokens: kept.tokenIds.length, keptTokens: kept.keptTokens, source, release };
  }

  /**
   * Keeps the prompts again in an engine that was opened again. Those that cannot be kept any more are left out.
   *
   * @throws {ReadMeError} `ERR_ENGINE_FAILED`, `ERR_DISPOSED`
   */
  async repeat(): Promise<void> {
    for (const entry of this.#entries) {
      try {
        await this.#keep(entry);
      } catch (error) {
        const code = error instanceof ReadMeError ? error.code : undefined;
        if (code === "ERR_ENGINE_FAILED" || code === "ERR_DISPOSED") throw error;
        this.#entries.delete(entry);
      }
    }
  }

  async #keep(entry: Entry): Promise<{ readonly kept: WireKept; readonly source: KeptPrompt["source"] }> {
    const { call, emit } = this.#engine;
    const { prompt, options } = entry;
    const { expert, signal } = options;
    const startMs = performance.now();
    const kept = await call("keepPrompt", { prompt, expert }, signal);
    const { keptId, keptTokens, refusal } = kept;
    entry.keptId = keptId;
    const source = kept.source === "none" ? "computed" : kept.source;
    const saveFailure = kept.source === "none" ? await this.#compute(kept, options) : undefined;
    const durationMs = performance.now() - startMs;
    emit({ promptTokens: kept.tokenIds.length, keptTokens, source, durationMs, refusal, saveFailure });
    return { kept, source };
  }

  /** @returns why the prompt could not be saved, if it could not */
  async #compute(kept: WireKept, options: KeepPromptOptions): Promise<string | undefined> {
    const { call, compute } = this.#engine;
    try {
      for await (const chunk of compute(kept, options)) void chunk;
      return await call("savePrompt", { keptId: kept.keptId }, options.signal);
    } catch (error) {
      await call("releasePrompt", { keptId: kept.keptId }).catch(() => undefined);
      throw error;
    }
  }
}
