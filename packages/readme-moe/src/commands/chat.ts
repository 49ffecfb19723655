import { createInterface, type Interface } from "node:readline";
import { ReadMeError, type ChatMessage } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Command } from "commander";
import { MODEL_ARGUMENT, withEngine } from "../models.ts";
import {
  addOptions,
  controlTokensOption,
  type EngineFlags,
  engineOptions,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
} from "../options.ts";

interface ChatFlags extends EngineFlags, SamplingFlags {
  readonly system?: string;
}

const HELP = "/clear starts a new chat, /exit or Ctrl-D ends the program, Ctrl-C stops an answer.";

export function chatCommand(signal: AbortSignal): Command {
  const command = new Command("chat")
    .summary("talk to a model in the terminal")
    .description(`Talks to a model that has a chat template. ${HELP}\nReads lines from a pipe as well.`)
    .argument("<model>", MODEL_ARGUMENT)
    .option("--system <text>", "system message, before all others");
  addOptions(command, ...samplingOptions("chat"), ...engineOptions(), controlTokensOption());
  return command.action((path: string, flags: ChatFlags) =>
    withEngine(path, flags, signal, async (engine) => {
      if (!engine.info.hasChatTemplate) {
        throw new ReadMeError("ERR_CHAT_TEMPLATE", `${path}: has no chat template; use generate`);
      }
      await new Chat(engine, flags).run();
    }),
  );
}

class Chat {
  readonly #engine: ReadMeEngine;
  readonly #flags: ChatFlags;
  readonly #lines: Interface;
  #history: ChatMessage[] = [];
  #answer: AbortController | undefined;

  constructor(engine: ReadMeEngine, flags: ChatFlags) {
    this.#engine = engine;
    this.#flags = flags;
    const { isTTY } = process.stdin;
    // A pipe gets no prompt and no echo.
    const output = isTTY ? process.stdout : undefined;
    this.#lines = createInterface({ input: process.stdin, output, prompt: isTTY ? "> " : "" });
    // On a terminal readline reads Ctrl-C as a key; elsewhere it comes as a signal.
    this.#lines.on("SIGINT", () => this.#interrupt());
  }

  async run(): Promise<void> {
    const onSignal = (): void => this.#interrupt();
    process.on("SIGINT", onSignal);
    this.#clear();
    if (process.stdin.isTTY) console.error(HELP);
    try {
      this.#lines.prompt();
      for await (const line of this.#lines) {
        if (line.trim() === "/exit") break;
        if (line.trim() === "/clear") this.#clear();
        else if (line.trim() === "/help") console.error(HELP);
        else if (line.trim() !== "") await this.#reply(line);
        this.#lines.prompt();
      }
    } finally {
      process.off("SIGINT", onSignal);
      this.#lines.close();
    }
  }

  async #reply(content: string): Promise<void> {
    this.#answer = new AbortController();
    const messages = [...this.#history, { role: "user", content }];
    let text = "";
    try {
      const { signal } = this.#answer;
      const params = samplingParams(this.#flags, "chat", this.#engine.info.samplingDefaults);
      for await (const chunk of this.#engine.generate({ prompt: { messages }, params, signal })) {
        text += chunk.text;
        process.stdout.write(chunk.text);
      }
    } catch (error) {
      if (!this.#answer.signal.aborted) {
        if (!(error instanceof ReadMeError) || error.code === "ERR_ENGINE_FAILED") throw error;
        // This message cannot be answered, such as one that exceeds the context; the next one may.
        console.error(`error: ${error.message} (${error.code})`);
        return;
      }
    } finally {
      this.#answer = undefined;
      process.stdout.write("\n");
    }
    this.#history = [...messages, { role: "assistant", content: text }];
  }

  #interrupt(): void {
    if (this.#answer) this.#answer.abort();
    else this.#lines.close();
  }

  #clear(): void {
    const { system } = this.#flags;
    this.#history = system === undefined ? [] : [{ role: "system", content: system }];
  }
}
