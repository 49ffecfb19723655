// Prompts that the caller keeps, and their repetition in an engine that is opened again after a failure.

import {
  checkExpert,
  describeValue,
  expertIndex,
  rejectUnknownKeys,
  ReadMeError,
  type Generation,
  type Prompt,
  type ReadMeEvents,
} from "@readme-moe/core";
import type { WireKept, WirePrompt } from "../protocol.ts";
import { type CallingEngine, wirePrompt } from "./request.ts";

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

interface KeepingEngine extends CallingEngine {
  /** Runs a prompt up to its first token, and keeps it. */
  readonly compute: (prompt: Int32Array, keptId: number, options: KeepPromptOptions) => Generation;
  readonly emit: (event: Parameters<ReadMeEvents["prompt:kept"]>[0]) => void;
}

interface Entry {
  /** The same in each worker. */
  readonly keptId: number;
  readonly prompt: WirePrompt;
  readonly expert: string | undefined;
}

export class PromptKeeper {
  readonly #engine: KeepingEngine;
  readonly #entries = new Set<Entry>();
  #numKept = 0;

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
    const { experts } = info;
    checkExpert(options.expert, info);
    // In an engine that is opened again, experts may have other numbers.
    const expert = typeof options.expert === "number" ? experts[expertIndex(experts, options.expert)] : options.expert;
    const entry: Entry = { keptId: ++this.#numKept, prompt: wirePrompt(prompt, info), expert };
    const { kept, source } = await this.#keep(entry, options.signal);
    this.#entries.add(entry);
    const release = async (): Promise<void> => {
      if (this.#entries.delete(entry)) await this.#release(entry);
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
        if (!this.#entries.has(entry)) await this.#release(entry);
      } catch (error) {
        if (isGone(error)) throw error;
        this.#entries.delete(entry);
      }
    }
  }

  async #keep(
    { keptId, prompt, expert }: Entry,
    signal?: AbortSignal,
  ): Promise<{ readonly kept: WireKept; readonly source: KeptPrompt["source"] }> {
    const { call, emit } = this.#engine;
    const startMs = performance.now();
    const kept = await call("keepPrompt", { keptId, prompt, expert }, signal);
    const { keptTokens, refusal, tokenIds } = kept;
    const source = kept.source === "none" ? "computed" : kept.source;
    const saveFailure = kept.source === "none" ? await this.#compute(tokenIds, keptId, { expert, signal }) : undefined;
    const durationMs = performance.now() - startMs;
    emit({ promptTokens: tokenIds.length, keptTokens, source, durationMs, refusal, saveFailure });
    return { kept, source };
  }

  /** @returns why the prompt could not be saved, if it could not */
  async #compute(...computed: Parameters<KeepingEngine["compute"]>): Promise<string | undefined> {
    const { call, compute } = this.#engine;
    const [, keptId, { signal }] = computed;
    try {
      for await (const chunk of compute(...computed)) void chunk;
      return await call("savePrompt", { keptId }, signal);
    } catch (error) {
      await call("releasePrompt", { keptId }).catch(() => undefined);
      throw error;
    }
  }

  /** An engine that has failed keeps nothing. */
  async #release({ keptId }: Entry): Promise<void> {
    await this.#engine.call("releasePrompt", { keptId }).catch((error: unknown) => {
      if (!isGone(error)) throw error;
    });
  }
}

function isGone(error: unknown): boolean {
  return error instanceof ReadMeError && (error.code === "ERR_ENGINE_FAILED" || error.code === "ERR_DISPOSED");
}
