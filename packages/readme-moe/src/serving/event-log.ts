// The log of a server: lines for people, or JSON for programs that collect logs.

import type { Engine, ErrorLink, ReadMeEmitter, ReadMeEvents } from "@readme-moe/core";
import { LoadingLines, loadingLine, showLoading } from "../show-download.ts";
import { durationText, showStatus } from "../terminal.ts";
import { memoryLines } from "./memory-lines.ts";
import { Repeats } from "./repeats.ts";

type EventOf<Name extends keyof ReadMeEvents> = Parameters<ReadMeEvents[Name]>[0];

/** Events that are logged as JSON only: people could not read so many. */
const JSON_EVENTS = ["request:answered", "request:rejected", "model:swapped"] as const;

const REPEATS_MS = 60_000;

export class EventLog {
  readonly #isJson: boolean;
  readonly #repeats = new Repeats<EventOf<"request:failed">>(REPEATS_MS);
  /** Names of models that were open before. */
  readonly #opened = new Set<string>();
  /** Lines of the openings under way. */
  readonly #loading = new Map<string, LoadingLines>();
  #isListening = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(isJson: boolean) {
    this.#isJson = isJson;
  }

  /** Logs an event. @param text - line for people. @param details - fields for programs */
  print(event: string, text: string, details: object = {}): void {
    // Standard output is for programs: the address, and the log as JSON.
    showStatus();
    if (this.#isJson) this.#write(event, details);
    else console.error(text);
  }

  printAddress(url: string, names: readonly string[]): void {
    const [model] = names;
    this.#isListening = true;
    if (this.#isJson) this.#write("server:listening", { url, model, ...(names.length > 1 && { models: names }) });
    else console.log(`${names.join(", ")} at ${url}/v1`);
  }

  listen(events: ReadMeEmitter): void {
    this.#listenToEngines(events);
    this.#listenToModels(events);
    events.on("request:failed", (event) => this.#failed(event));
    if (!this.#isJson) return;
    for (const name of JSON_EVENTS) {
      events.on(name, (event: EventOf<typeof name>) => this.#write(name, event));
    }
  }

  /** Logs how models are opened and closed. The address comes first. */
  #listenToModels(events: ReadMeEmitter): void {
    events.on("model:loading", (event) => {
      const { name } = event;
      const lines = this.#loading.get(name) ?? new LoadingLines();
      this.#loading.set(name, lines);
      const isDue = lines.isDue(performance.now());
      if (!this.#isListening) return;
      if (!this.#isJson) showLoading(loadingLine(name, event), isDue);
      else if (isDue) this.#write("model:loading", event);
    });
    events.on("model:opened", (event) => {
      this.print("model:opened", `opened ${event.name} in ${durationText(event.durationMs / 1000)}`, event);
    });
    events.on("model:closed", (event) => this.print("model:closed", `closed ${event.name}`, event));
    events.on("model:open-failed", (event) => {
      const { name, retryInMs, causes } = event;
      this.#loading.delete(name);
      const text = `error: the model ${name} is not open; a request tries again after ${seconds(retryInMs)}`;
      this.print("model:open-failed", `${text}: ${causesText(causes)}`, event);
    });
  }

  #listenToEngines(events: ReadMeEmitter): void {
    const log = (event: string, details: { readonly name: string }, text: string): void => {
      // If a model cannot be opened at all, the command itself prints why on standard error.
      if (this.#isJson || this.#opened.has(details.name)) this.print(event, text, details);
    };
    events.on("engine:restarted", (event) =>
      log("engine:restarted", event, `the model ${event.name} works again, after attempt ${event.attempts}`),
    );
    events.on("engine:restart-failed", (event) => {
      const { name, attempts, retryInMs, causes } = event;
      const next = retryInMs === undefined ? "the last" : `the next follows in ${seconds(retryInMs)}`;
      const text = `error: the model ${name} could not be opened again in attempt ${attempts}, ${next}`;
      log("engine:restart-failed", event, `${text}: ${causesText(causes)}`);
    });
    events.on("engine:given-up", (event) => {
      const after = event.attempts === 0 ? "" : `, after ${event.attempts} attempts`;
      const text = `error: the model ${event.name} has failed and will not be opened again${after}`;
      log("engine:given-up", event, `${text}: ${causesText(event.causes)}`);
    });
    events.on("engine:failing", (event) => {
      const { name, failures, isReopened, causes } = event;
      const reopened = isReopened ? "; its engine is closed and opened again" : "";
      const text = `error: the model ${name} has failed ${failures} requests in a row and is not ready${reopened}`;
      log("engine:failing", event, `${text}: ${causesText(causes)}`);
    });
    events.on("engine:hung", (event) => {
      const duration = seconds(event.overdueMs);
      const text = `error: the engine of the model ${event.name} has not answered for ${duration} and is not ready`;
      log("engine:hung", event, text);
    });
    events.on("expert:lost", (event) => {
      const text = `error: the expert ${event.expert} of the model ${event.name} could not be loaded again`;
      log("expert:lost", event, `${text}: ${causesText(event.causes)}`);
    });
    events.on("engine:recovered", (event) => {
      const before = event.from === "hung" ? "hung" : "failed its requests";
      log("engine:recovered", event, `the model ${event.name} answers again, after it ${before}`);
    });
  }

  watch(model: string, { events, info }: Engine): void {
    const { kernel, memory, contextTokens, kvCapacityTokens } = info;
    this.#opened.add(model);
    this.#loading.delete(model);
    showStatus();
    if (this.#isJson && kernel) this.#write("kernel:selected", { model, ...kernel });
    if (memory) {
      const details = { model, contextTokens, kvCapacityTokens, ...memory };
      this.print("memory:planned", memoryLines(info).join("\n"), details);
    }
    events.on("engine:failed", ({ code, message, causes = [{ name: "ReadMeError", code, message }] }) =>
      this.print("engine:failed", `error: the engine of the model ${model} has failed: ${causesText(causes)}`, {
        model,
        code,
        message,
        causes,
      }),
    );
  }

  /** Logs what was held back, and stops. */
  close(): void {
    clearTimeout(this.#timer);
    this.#logHeldBack(Infinity);
  }

  /** Logs failures of one kind once, then their number: requests may fail by the thousand for one reason. */
  #failed(event: EventOf<"request:failed">): void {
    const nowMs = performance.now();
    this.#logHeldBack(nowMs);
    const { requestId, model = "no model", status, causes } = event;
    if (this.#repeats.take(kindOf(causes, model, status), event, nowMs)) {
      const text = `error: the request ${requestId} to ${model} failed with ${status}: ${causesText(causes)}`;
      this.print("request:failed", text, event);
    }
    this.#wait(nowMs);
  }

  #logHeldBack(nowMs: number): void {
    for (const { count, windowMs, last } of this.#repeats.due(nowMs)) {
      const { requestId, model = "no model", status, causes } = last;
      const often = `${count} more ${count === 1 ? "request" : "requests"} to ${model} failed with ${status}`;
      const text = `error: ${often} within ${seconds(windowMs)}, the last ${requestId}: ${causesText(causes)}`;
      this.print("request:failed", text, { ...last, repeated: count, withinMs: windowMs });
    }
  }

  #wait(nowMs: number): void {
    const nextMs = this.#repeats.nextMs();
    clearTimeout(this.#timer);
    if (nextMs === undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#logHeldBack(performance.now());
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

/** Joins the messages and codes of errors and their causes in one line; a cause that is quoted before is left out. */
export function causesText(causes: readonly ErrorLink[]): string {
  const texts: string[] = [];
  for (const { name, code, message } of causes) {
    const text = `${oneLine(message) || name}${code === undefined ? "" : ` (${code})`}`;
    const isSaid = texts.some((before) => before.includes(oneLine(message))) && code === undefined;
    if (!isSaid || texts.length === 0) texts.push(text);
  }
  return texts.length === 0 ? "no reason was given" : texts.join("; caused by: ");
}

/** Makes a key for failures of one kind, which ignores numbers in their messages, such as ids and layers. */
export function kindOf(causes: readonly ErrorLink[], ...more: readonly (string | number | undefined)[]): string {
  const texts = causes.map(({ name, code, message }) => [name, code, message.replaceAll(/\d+/g, "#")]);
  return JSON.stringify([more, texts]);
}

/** Replaces control characters, so that a message cannot begin another line of the log. */
function oneLine(message: string): string {
  return message.replaceAll(/\p{Cc}+/gu, " ").trim();
}
