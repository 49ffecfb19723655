// What a server does, for people or for programs that collect logs.

import type { Engine, ReadMeEmitter, ReadMeEvents } from "@readme-moe/core";
import { causesText, kindOf } from "./failure-text.ts";
import { Repeats } from "./repeats.ts";

type EventOf<Name extends keyof ReadMeEvents> = Parameters<ReadMeEvents[Name]>[0];

/** Too many to be read by people. */
const JSON_EVENTS = ["request:answered", "request:rejected", "model:swapped"] as const;

/** What becomes of engines, in words. */
const ENGINE_TEXTS = {
  "engine:restarted": ({ name, attempts }) => `the model ${name} works again, at attempt ${attempts}`,
  "engine:restart-failed": ({ name, attempts, retryInMs, causes }) =>
    `error: the model ${name} could not be opened again at attempt ${attempts}, ` +
    `${retryInMs === undefined ? "the last" : `the next is in ${seconds(retryInMs)}`}: ${causesText(causes)}`,
  "engine:given-up": ({ name, attempts, causes }) =>
    `error: the model ${name} has failed and is not opened again` +
    `${attempts === 0 ? "" : `, after ${attempts} attempts`}: ${causesText(causes)}`,
  "engine:failing": ({ name, failures, isReopened, causes }) =>
    `error: the model ${name} has failed ${failures} requests in a row and is not ready` +
    `${isReopened ? "; it is ended and opened again" : ""}: ${causesText(causes)}`,
  "engine:hung": ({ name, overdueMs }) =>
    `error: the engine of the model ${name} has not answered for ${seconds(overdueMs)} and is not ready`,
  "engine:recovered": ({ name, from }) =>
    `the model ${name} answers again, after it ${from === "hung" ? "hung" : "failed its requests"}`,
} satisfies { readonly [Name in keyof ReadMeEvents]?: (event: EventOf<Name>) => string };

const REPEATS_MS = 60_000;

export class EventLog {
  readonly #isJson: boolean;
  readonly #repeats = new Repeats<EventOf<"request:failed">>(REPEATS_MS);
  /** Names of models that were open once. */
  readonly #opened = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

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
    for (const name of Object.keys(ENGINE_TEXTS) as (keyof typeof ENGINE_TEXTS)[]) {
      const textOf = ENGINE_TEXTS[name] as (event: object) => string;
      events.on(name, (event: { readonly name: string }) => {
        // The command itself says on standard error why a model cannot be opened at all.
        if (this.#isJson || this.#opened.has(event.name)) this.tell(name, textOf(event), event);
      });
    }
    events.on("request:failed", (event) => this.#failed(event));
    if (!this.#isJson) return;
    for (const name of JSON_EVENTS) {
      events.on(name, (event: EventOf<typeof name>) => this.#write(name, event));
    }
  }

  watch(model: string, { events, info: { kernel } }: Engine): void {
    this.#opened.add(model);
    if (this.#isJson && kernel) this.#write("kernel:selected", { model, ...kernel });
    events.on("engine:failed", ({ code, message, causes = [{ name: "ReadMeError", code, message }] }) =>
      this.tell("engine:failed", `error: the engine of the model ${model} has failed: ${causesText(causes)}`, {
        model,
        code,
        message,
        causes,
      }),
    );
  }

  /** Says what was held back, and holds back no more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#tellHeldBack(Infinity);
  }

  /** Requests may fail by the thousand for one reason: it is said once, and then how often it was the reason again. */
  #failed(event: EventOf<"request:failed">): void {
    const nowMs = performance.now();
    this.#tellHeldBack(nowMs);
    const { requestId, model = "no model", status, causes } = event;
    if (this.#repeats.take(kindOf(causes, model, status), event, nowMs)) {
      const text = `error: the request ${requestId} to ${model} failed with ${status}: ${causesText(causes)}`;
      this.tell("request:failed", text, event);
    }
    this.#wait(nowMs);
  }

  #tellHeldBack(nowMs: number): void {
    for (const { count, windowMs, last } of this.#repeats.due(nowMs)) {
      const { requestId, model = "no model", status, causes } = last;
      const often = `${count} more ${count === 1 ? "request" : "requests"} to ${model} failed with ${status}`;
      const text = `error: ${often} within ${seconds(windowMs)}, the last ${requestId}: ${causesText(causes)}`;
      this.tell("request:failed", text, { ...last, repeated: count, withinMs: windowMs });
    }
  }

  #wait(nowMs: number): void {
    const nextMs = this.#repeats.nextMs();
    clearTimeout(this.#timer);
    if (nextMs === undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#tellHeldBack(performance.now());
        this.#wait(performance.now());
      },
      Math.max(1, nextMs - nowMs),
    ).unref();
  }

  #write(event: string, details: object): void {
    console.log(JSON.stringify({ time: new Date().toISOString(), event, ...details }));
  }
}

function seconds(ms: number): string {
  return `${Number((ms / 1000).toPrecision(2))} s`;
}
