import { ReadMeError } from "@readme-moe/core";
import { Command } from "commander";
import { answerOnce, type ChatOptions, runChat } from "../chat/chat.ts";
import { pipedText } from "../data-files.ts";
import { checkEngineFlags, MODEL_ARGUMENT, openEngine, type OpenedEngine } from "../models.ts";
import {
  addOptions,
  engineFlag,
  type EngineFlags,
  engineOptions,
  examples,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
} from "../options.ts";

interface ChatFlags extends EngineFlags, SamplingFlags {
  readonly system?: string;
  readonly lines?: true;
}

export function chatCommand(signal: AbortSignal): Command {
  const command = new Command("chat")
    .summary("talk to a model in the terminal")
    .description(
      "Talks to a model that has a chat template. /help shows the commands of a chat: /clear, /system, /model, /save, " +
        '/load and /exit. """ begins and ends a message of several lines. Ctrl-C stops an answer, Ctrl-D ends the ' +
        "program. A text that is piped into standard input is one message, which is answered once.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--system <text>", "system message, before all others")
    .option("--lines", "read messages and commands line by line from a pipe, as from a terminal");
  addOptions(command, ...samplingOptions("chat"), ...engineOptions(), engineFlag("controlTokensInMessages"));
  command.addHelpText(
    "after",
    examples("readme-moe chat smollm2:135m", 'echo "What is the capital of France?" | readme-moe chat smollm2:135m'),
  );
  return command.action(async (model: string, flags: ChatFlags) => {
    checkEngineFlags(flags);
    const open = async (name: string): Promise<OpenedEngine> => {
      const opened = await openEngine(name, flags, signal);
      const { hasChatTemplate, task } = opened.engine.info;
      if (hasChatTemplate) return opened;
      await opened.close();
      // Commands have the names of tasks.
      throw new ReadMeError("ERR_CHAT_TEMPLATE", `${name}: has no chat template; use ${task}`);
    };
    const params: ChatOptions["params"] = ({ info }) => samplingParams(flags, "chat", info.samplingDefaults);
    const options = { model, system: flags.system, params, open };
    const message = flags.lines ? undefined : await pipedText(signal);
    if (message === undefined) return runChat(options);
    if (message.trim() === "") throw new TypeError("Expected a message on standard input, got none");
    await answerOnce(message.trim(), options, signal);
  });
}
