// What a server does, for people or for programs that collect logs.

import type { Engine, ReadMeEmitter, ReadMeEvents } from "@readme-moe/core";

const SERVER_EVENTS = ["request:answered", "request:rejected", "model:swapped", "engine:restarted"] as const;

export class EventLog {
  readonly #isJson: boolean;

  constructor(isJson: boolean) {
    this.#isJson = isJson;
  }

  /** @param text - for people */
  tell(event: string, text: string, details: object = {}): void {
    // Standard output is for what a program may want to read: the address, and the log it asked for.
    if (this.#isJson) this.#write(event, details);
    else console.error(text);
  }

  /** The one line that says where the server is. */
  tellAddress(url: string, name: string): void {
    if (this.#isJson) this.#write("server:listening", { url, model: name });
    else console.log(`${name} at ${url}/v1`);
  }

  listen(events: ReadMeEmitter): void {
    if (!this.#isJson) return;
    for (const name of SERVER_EVENTS) {
      events.on(name, (event: Parameters<ReadMeEvents[typeof name]>[0]) => this.#write(name, event));
    }
  }

  watch(model: string, { events, info: { kernel } }: Engine): void {
    if (this.#isJson && kernel) this.#write("kernel:selected", { model, ...kernel });
    events.on("engine:failed", ({ code, message }) =>
      this.tell("engine:failed", `error: ${message} (${code})`, { model, code, message }),
    );
  }

  #write(event: string, details: object): void {
    console.log(JSON.stringify({ time: new Date().toISOString(), event, ...details }));
  }
}
