// A worker that reads prompts and runs no model.

import { setImmediate as nextTurn } from "node:timers/promises";
import { integerOption, type PromptInfo, ReadMeError } from "@readme-moe/core";
import { gatherExperts, openPromptModel } from "@readme-moe/model";
import { type Calls, type FromWorker, toWire, type ToWorker } from "../protocol.ts";
import { ExpertNames, Routers } from "../experts/routers.ts";
import type { ResolvedReaderOptions } from "../engine-options.ts";
import { answerReading, isReadingCall, OpenCalls, type ReadingCall } from "./calls.ts";
import { promptInfo, promptVersionOf } from "./open-engine.ts";
import { type ReadingEngine, TimeSlices } from "./requests.ts";

/** Receives messages, and reads long texts in time slices between them. */
export class ReaderServer {
  readonly #send: (message: FromWorker) => void;
  readonly #onClosed: () => void;
  readonly #calls: OpenCalls;
  #reader: OpenedReader | undefined;
  #isRunning = false;

  constructor(send: (message: FromWorker) => void, onClosed: () => void) {
    this.#send = send;
    this.#onClosed = onClosed;
    this.#calls = new OpenCalls(send);
  }

  receive(message: ToWorker): void {
    switch (message.type) {
      case "read":
        void this.#open(message);
        return;
      case "call":
        void this.#call(message);
        void this.#run();
        return;
      case "cancel":
        this.#calls.cancel(message.callId);
        return;
      case "ping":
        this.#send({ type: "pong" });
        return;
      case "close":
        void this.#close();
        return;
      case "end":
        process.exit();
        return;
      case "open":
      case "generate":
      case "abort":
      case "processed":
      case "allowed":
      case "listen":
        throw new TypeError(`Expected a message to a reader of prompts, got ${message.type}`);
      default:
        throw new TypeError(`Unknown message: ${String(message satisfies never)}`);
    }
  }

  async #open({ path, options }: ToWorker & { type: "read" }): Promise<void> {
    try {
      this.#reader = await openReader(path, options);
      this.#send({ type: "reading", info: this.#reader.info });
    } catch (error) {
      this.#send({ type: "failed", error: toWire(error) });
      this.#onClosed();
    }
  }

  #call(call: ToWorker & { type: "call" }): Promise<void> {
    const { name, args } = call;
    return this.#calls.answer(call, async (signal) => {
      const reader = this.#reader;
      if (!reader || !isReadingCall(name)) throw new ReadMeError("ERR_DISPOSED", "The reader of prompts is not open");
      return answerReading(reader, name, args as Calls[ReadingCall]["args"], signal);
    });
  }

  /** Continues texts that take more than one slice, and receives messages between slices. */
  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    while (this.#reader?.slices.hasWork === true) {
      this.#reader.slices.run();
      await nextTurn();
    }
    this.#isRunning = false;
  }

  async #close(): Promise<void> {
    const reader = this.#reader;
    this.#reader = undefined;
    await reader?.close();
    this.#send({ type: "closed" });
    this.#onClosed();
  }
}

interface OpenedReader extends ReadingEngine {
  readonly info: PromptInfo;
  close(): Promise<void>;
}

/** Opens the parts of an engine that need no weights. If one fails, closes the others. */
export async function openReader(path: string, options: ResolvedReaderOptions): Promise<OpenedReader> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed()) await closer();
  };
  try {
    const model = await openPromptModel(path);
    closers.push(() => model.close());
    const { config, experts } = model;
    const most = config.contextTokens;
    const contextTokens = integerOption("contextTokens", options.contextTokens ?? most, 1, most);
    const text = await model.loadText();
    const { threads, cacheFolder, kernel } = options;
    const routerOptions = { threads, cacheFolder, kernel };
    const isDense = experts.names.length === 1;
    const set = isDense ? await gatherExperts(model, options.loras) : undefined;
    closers.push(async () => set?.close());
    const names = new ExpertNames();
    for (const { name } of set?.experts ?? []) names.setUsable(names.reserve(name), true);
    const routers = new Routers(model, set && { names, set }, options.expert, routerOptions);
    closers.push(() => routers.close());
    await routers.routerFor(undefined);
    const info: PromptInfo = {
      ...promptInfo(model, text),
      contextTokens,
      experts: names.size > 1 ? names.list : experts.names,
      expertKind: isDense ? "lora" : "ffn",
      hasRouter: routers.hasRouter,
      samplingDefaults: options.samplingDefaults === "model" ? model.samplingDefaults() : {},
      promptVersion: await promptVersionOf(model, set, options),
    };
    return {
      model,
      text,
      options,
      sizes: { contextTokens },
      slices: new TimeSlices(),
      routerFor: (choice) => routers.routerFor(choice),
      info,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
