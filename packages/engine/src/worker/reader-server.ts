// A worker that reads prompts and runs no model.

import { setImmediate as nextTurn } from "node:timers/promises";
import { ReadMeError } from "@readme-moe/core";
import { toWire, type Calls, type FromWorker, type ToWorker } from "../protocol.ts";
import { answerReading, isReadingCall, type ReadingCall } from "./calls.ts";
import { OpenCalls } from "./open-calls.ts";
import { openReader, type OpenedReader } from "./open-reader.ts";

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
