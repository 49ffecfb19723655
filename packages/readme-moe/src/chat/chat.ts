// A chat in the terminal.

import { createInterface, type Interface } from "node:readline";
import { ReadMeError, type ChatMessage, type FinishReason, type SamplingParams } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import type { OpenedEngine } from "../models.ts";
import { memoryLines } from "../serving/memory-lines.ts";
import { loadChat, saveChat } from "./chat-file.ts";
import { dimmed } from "../terminal.ts";
import { helpLines, readLine, type ChatInput, type OpenLines } from "./input.ts";

const CUT = "cut at the largest number of tokens (--max-new-tokens)";

export interface ChatOptions {
  /** Name of the first model. */
  readonly model: string;
  /** System message, before all others. */
  readonly system?: string | undefined;
  readonly params: (engine: ReadMeEngine) => SamplingParams;
  /** Opens a model by name. @throws {ReadMeError} if it has no chat template, too */
  readonly open: (name: string) => Promise<OpenedEngine>;
}

/** An answer and its speed. */
interface Answer {
  readonly text: string;
  readonly numTokens: number;
  readonly durationMs: number;
  readonly finishReason: FinishReason | undefined;
}

/** Answers one message, and prints the answer while it is generated. */
export async function answerOnce(content: string, options: ChatOptions, signal: AbortSignal): Promise<void> {
  const { engine, close } = await options.open(options.model);
  try {
    const system = options.system === undefined ? [] : [{ role: "system", content: options.system }];
    const messages = [...system, { role: "user", content }];
    let finishReason: FinishReason | undefined;
    for await (const chunk of engine.generate({ prompt: { messages }, params: options.params(engine), signal })) {
      process.stdout.write(chunk.text);
      finishReason = chunk.finishReason ?? finishReason;
    }
    process.stdout.write("\n");
    if (finishReason === "length") console.error(`note: the answer was ${CUT}`);
  } finally {
    await close();
  }
}

/** Runs a chat until the input ends, or the user ends it. */
export async function runChat(options: ChatOptions): Promise<void> {
  const opened = await options.open(options.model);
  const chat = new Chat(options, opened);
  try {
    await chat.run();
  } finally {
    await chat.close();
  }
}

class Chat {
  readonly #options: ChatOptions;
  readonly #lines: Interface;
  readonly #isTerminal = process.stdin.isTTY;
  /** Terminal that shows prompts and typed text; answers may go to a file meanwhile. */
  readonly #screen = [process.stdout, process.stderr].find((stream) => stream.isTTY);
  #model: string;
  #opened: OpenedEngine;
  #system: string | undefined;
  #history: ChatMessage[] = [];
  #answer: AbortController | undefined;

  constructor(options: ChatOptions, opened: OpenedEngine) {
    this.#options = options;
    this.#opened = opened;
    this.#model = options.model;
    this.#system = options.system;
    // A pipe gets no prompt and no echo.
    const output = this.#isTerminal ? this.#screen : undefined;
    this.#lines = createInterface({ input: process.stdin, output, prompt: this.#isTerminal ? "> " : "" });
    // On a terminal readline reads Ctrl-C as a key; elsewhere it comes as a signal.
    this.#lines.on("SIGINT", () => this.#interrupt());
  }

  async run(): Promise<void> {
    const onSignal = (): void => this.#interrupt();
    process.on("SIGINT", onSignal);
    this.#clear();
    const { info } = this.#opened.engine;
    this.#note(`${this.#model} in ${info.precision}; /help shows the commands`);
    for (const line of memoryLines(info)) this.#note(line);
    try {
      let open: OpenLines;
      this.#lines.prompt();
      for await (const line of this.#lines) {
        const read = readLine(open, line);
        open = read.open;
        if (read.input && !(await this.#obey(read.input))) break;
        this.#lines.setPrompt(this.#isTerminal ? (open === undefined ? "> " : "… ") : "");
        this.#lines.prompt();
      }
    } finally {
      process.off("SIGINT", onSignal);
      this.#lines.close();
    }
  }

  close(): Promise<void> {
    return this.#opened.close();
  }

  /** @returns whether the chat goes on */
  async #obey(input: ChatInput): Promise<boolean> {
    if (input.kind === "wrong") console.error(input.why);
    else if (input.kind === "message") await this.#reply(input.text);
    else if (input.name === "exit") return false;
    else await this.#telling(() => this.#run(input));
    return true;
  }

  async #run({ name, argument }: ChatInput & { readonly kind: "command" }): Promise<void> {
    switch (name) {
      case "help":
        for (const line of helpLines()) console.error(line);
        return;
      case "clear":
        return this.#clear();
      case "system":
        this.#system = argument === "" ? undefined : argument;
        return this.#clear();
      case "model":
        return this.#switchTo(argument);
      case "save":
        await saveChat(argument, { model: this.#model, messages: this.#history });
        return this.#note(`saved ${this.#history.length} messages to ${argument}`);
      case "load":
        this.#history = [...(await loadChat(argument)).messages];
        return this.#note(`${this.#history.length} messages from ${argument}`);
      case "exit":
        return;
      default:
        throw new TypeError(`Unknown command: ${String(name satisfies never)}`);
    }
  }

  /** Opens another model before the present one is closed, which stays if that fails. */
  async #switchTo(name: string): Promise<void> {
    if (name !== "") {
      const opened = await this.#options.open(name);
      await this.#opened.close();
      this.#opened = opened;
      this.#model = name;
    }
    console.error(`${this.#model} in ${this.#opened.engine.info.precision}`);
  }

  async #reply(content: string): Promise<void> {
    const messages = [...this.#history, { role: "user", content }];
    await this.#telling(async () => {
      const { text, numTokens, durationMs, finishReason } = await this.#stream(messages);
      this.#history = [...messages, { role: "assistant", content: text }];
      const cut = finishReason === "length" ? `; ${CUT}` : "";
      if (durationMs > 0)
        this.#note(`${numTokens} tokens, ${((1000 * numTokens) / durationMs).toFixed(0)} per second${cut}`);
    });
  }

  /** Prints an answer while it is generated. An answer that is stopped counts as far as it came. */
  async #stream(messages: readonly ChatMessage[]): Promise<Answer> {
    const { signal } = (this.#answer = new AbortController());
    const { engine } = this.#opened;
    const startMs = performance.now();
    let [text, numTokens, finishReason] = ["", 0, undefined as FinishReason | undefined];
    try {
      const params = this.#options.params(engine);
      for await (const chunk of engine.generate({ prompt: { messages }, params, signal })) {
        text += chunk.text;
        numTokens += chunk.tokens.length;
        finishReason = chunk.finishReason ?? finishReason;
        process.stdout.write(chunk.text);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      this.#answer = undefined;
      process.stdout.write("\n");
    }
    return { text, numTokens, durationMs: performance.now() - startMs, finishReason };
  }

  /** Tells an error that the chat survives, such as a message that exceeds the context. @throws all others */
  async #telling(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ReadMeError) || error.code === "ERR_ENGINE_FAILED") throw error;
      console.error(`error: ${error.message} (${error.code})`);
    }
  }

  /** Tells something beside the chat, on a terminal only. */
  #note(text: string): void {
    if (this.#isTerminal && process.stderr.isTTY) console.error(dimmed(text));
  }

  #interrupt(): void {
    if (this.#answer) this.#answer.abort();
    else this.#lines.close();
  }

  #clear(): void {
    this.#history = this.#system === undefined ? [] : [{ role: "system", content: this.#system }];
  }
}
