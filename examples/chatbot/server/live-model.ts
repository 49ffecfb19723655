// One model as the page sees it: what it does now, and what can be changed while it does it.

import type { ReadMeEngine } from "@readme-moe/engine";
import type { LiveMemory, LiveSnapshot, ModelChoice, SchedulerName } from "../shared/live.ts";
import { LiveReaders, type ReaderOptions } from "./live-readers.ts";
import { LiveState } from "./live-state.ts";
import { SimulatedChats } from "./simulated-chats.ts";

/** A model that is open. */
export interface OpenedModel {
  readonly name: string;
  /** Without the precision. */
  readonly title: string;
  readonly engine: ReadMeEngine;
  /** Of one expert, by layer. Absent when all experts are in memory. */
  readonly layerBytes?: readonly number[] | undefined;
}

const INTERVAL_MS = 200;

export class LiveModel {
  readonly choice: ModelChoice;
  readonly readers: LiveReaders;
  readonly #model: OpenedModel;
  readonly #state: LiveState;
  readonly #chats: SimulatedChats;
  #scheduler: SchedulerName = "cost-aware";
  #timer: NodeJS.Timeout | undefined;
  /** Whether something has changed since the snapshot that is on its way was taken. */
  #hasChanged = false;

  constructor(model: OpenedModel, options: ReaderOptions = {}) {
    const { info, events } = model.engine;
    const { name, title } = model;
    const { precision, experts, hasChatTemplate, contextTokens } = info;
    this.choice = { name, title, precision, experts, hasChatTemplate, contextTokens };
    this.#model = model;
    this.readers = new LiveReaders(options);
    this.#state = new LiveState(experts.length, model.layerBytes?.length ?? 0);
    this.#chats = new SimulatedChats(model.engine, () => this.tellSoon());
    this.#state.listen(events, () => this.tellSoon());
  }

  async snapshot(): Promise<LiveSnapshot> {
    const { resident, ...observed } = this.#state.observed();
    const memory = await this.#memory(resident);
    return {
      ...observed,
      scheduler: this.#scheduler,
      simulatedChats: this.#chats.count,
      ...(memory ? { memory } : {}),
    };
  }

  /** @throws {ReadMeError} */
  async setScheduler(scheduler: SchedulerName): Promise<void> {
    await this.#model.engine.setScheduling({ scheduler });
    this.#scheduler = scheduler;
    this.tellSoon();
  }

  /** @throws {RangeError | TypeError | ReadMeError} */
  async setMemory(bytes: number): Promise<void> {
    await this.#model.engine.setExpertCacheBytes(bytes);
    this.tellSoon();
  }

  setSimulatedChats(count: number): void {
    this.#chats.set(count);
  }

  /** Tells readers soon, and not more often than a person can follow. */
  tellSoon(): void {
    this.#hasChanged = true;
    if (this.readers.size === 0 || this.#timer) return;
    this.#timer = setTimeout(() => void this.#tell(), INTERVAL_MS).unref();
  }

  async #tell(): Promise<void> {
    this.#hasChanged = false;
    try {
      this.readers.send(await this.snapshot());
    } catch {
      // The engine has failed or is gone; its next life tells again.
    }
    this.#timer = undefined;
    // Rates fall to nothing without any event.
    if (this.#hasChanged || this.#state.isBusy) this.tellSoon();
  }

  async #memory(resident: readonly string[]): Promise<LiveMemory | undefined> {
    const { engine, layerBytes } = this.#model;
    if (!layerBytes) return undefined;
    const { expertCache } = await engine.stats();
    if (!expertCache) return undefined;
    const { budgetBytes, usedBytes, uses, hits, evictions, bytesRead } = expertCache;
    const numExperts = engine.info.experts.length;
    // Segments are as the engine cut them: the largest one of all experts has to fit.
    const leastBytes = numExperts * Math.max(...expertCache.layerBytes);
    const allBytes = numExperts * layerBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { budgetBytes, usedBytes, leastBytes, allBytes, uses, hits, evictions, bytesRead, resident };
  }
}
