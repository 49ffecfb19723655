// The live view of one model, and its settings.

import type { ReadMeEngine } from "@readme-moe/engine";
import type { FleetEngine } from "@readme-moe/fleet";
import type { LiveMemory, LiveSnapshot, ModelChoice, SchedulerName } from "../shared/live.ts";
import { liveFleet } from "./live-fleet.ts";
import { LiveReaders, type ReaderOptions } from "./live-readers.ts";
import { LiveState } from "./live-state.ts";
import { SimulatedChats } from "./simulated-chats.ts";

/** An open model. */
export interface OpenedModel {
  readonly name: string;
  /** Name without the precision. */
  readonly title: string;
  /** Engine in this process' care, or a front of a fleet. */
  readonly engine: ReadMeEngine | FleetEngine;
  /** Bytes of one expert by layer; absent when all experts are in memory. */
  readonly layerBytes?: readonly number[] | undefined;
}

const INTERVAL_MS = 200;
/** Interval in which machines of a fleet are looked at; they publish once a second. */
const FLEET_MS = 1000;

export class LiveModel {
  readonly choice: ModelChoice;
  readonly readers: LiveReaders;
  readonly #model: OpenedModel;
  readonly #state: LiveState;
  readonly #chats: SimulatedChats;
  #scheduler: SchedulerName = "cost-aware";
  #timer: NodeJS.Timeout | undefined;
  /** Whether something has changed since the latest snapshot was taken. */
  #hasChanged = false;

  constructor(model: OpenedModel, options: ReaderOptions = {}) {
    const { info, events } = model.engine;
    const { name, title } = model;
    const { precision, experts, expertKind, hasRouter, hasChatTemplate, contextTokens } = info;
    this.choice = { name, title, precision, experts, expertKind, hasRouter, hasChatTemplate, contextTokens };
    this.#model = model;
    this.readers = new LiveReaders(options);
    this.#state = new LiveState(experts.length, model.layerBytes?.length ?? 0);
    this.#chats = new SimulatedChats(model.engine, () => this.sendSoon());
    this.#state.listen(events, () => this.sendSoon());
  }

  async snapshot(): Promise<LiveSnapshot> {
    const { resident, ...observed } = this.#state.observed();
    const { engine } = this.#model;
    const shared = { ...observed, simulatedChats: this.#chats.count };
    if (!isLocal(engine)) return { ...shared, fleet: liveFleet(await engine.status()) };
    const memory = await this.#memory(engine, resident);
    return { ...shared, scheduler: this.#scheduler, ...(memory ? { memory } : {}) };
  }

  /** @throws {ReadMeError}; {TypeError} for a fleet */
  async setScheduler(scheduler: SchedulerName): Promise<void> {
    await localEngine(this.#model).setScheduling({ scheduler });
    this.#scheduler = scheduler;
    this.sendSoon();
  }

  /** @throws {RangeError | TypeError | ReadMeError} */
  async setMemory(bytes: number): Promise<void> {
    await localEngine(this.#model).setExpertCacheBytes(bytes);
    this.sendSoon();
  }

  setSimulatedChats(count: number): void {
    this.#chats.set(count);
  }

  /** Sends a snapshot to the readers soon, at most once in an interval that people can follow. */
  sendSoon(): void {
    this.#hasChanged = true;
    if (this.readers.size === 0 || this.#timer) return;
    this.#timer = setTimeout(() => void this.#send(), this.#isFleet ? FLEET_MS : INTERVAL_MS).unref();
  }

  async #send(): Promise<void> {
    this.#hasChanged = false;
    try {
      this.readers.send(await this.snapshot());
    } catch {
      // The engine has failed or was closed; a restarted one sends again.
    }
    this.#timer = undefined;
    // Rates fall to 0 without any event, and machines of a fleet also work for other fronts.
    if (this.#hasChanged || this.#state.isBusy || this.#isFleet) this.sendSoon();
  }

  get #isFleet(): boolean {
    return !isLocal(this.#model.engine);
  }

  async #memory(engine: ReadMeEngine, resident: readonly string[]): Promise<LiveMemory | undefined> {
    const { layerBytes } = this.#model;
    if (!layerBytes) return undefined;
    const { expertCache } = await engine.stats();
    if (!expertCache) return undefined;
    const { budgetBytes, usedBytes, uses, hits, evictions, bytesRead } = expertCache;
    const numExperts = engine.info.experts.length;
    // The largest segment of all experts must fit; the engine has chosen the segments.
    const leastBytes = numExperts * Math.max(...expertCache.layerBytes);
    const allBytes = numExperts * layerBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { budgetBytes, usedBytes, leastBytes, allBytes, uses, hits, evictions, bytesRead, resident };
  }
}

function isLocal(engine: OpenedModel["engine"]): engine is ReadMeEngine {
  return "setScheduling" in engine;
}

/** @throws {TypeError} for a fleet, whose machines have settings of their own */
function localEngine({ engine }: OpenedModel): ReadMeEngine {
  if (isLocal(engine)) return engine;
  throw new TypeError("The machines of a fleet have settings of their own");
}
