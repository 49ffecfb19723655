import { ReadMeError } from "@readme-moe/core";
import { Command } from "commander";
import { runChat } from "../chat/chat.ts";
import { MODEL_ARGUMENT, openEngine, type OpenedEngine } from "../models.ts";
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

export function chatCommand(signal: AbortSignal): Command {
  const command = new Command("chat")
    .summary("talk to a model in the terminal")
    .description(
      "Talks to a model that has a chat template. /help shows the commands of a chat: /clear, /system, /model, /save,\n" +
        '/load and /exit. """ begins and ends a message of several lines. Ctrl-C stops an answer, Ctrl-D ends the\n' +
        "program. Reads lines from a pipe as well.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--system <text>", "system message, before all others");
  addOptions(command, ...samplingOptions("chat"), ...engineOptions(), controlTokensOption());
  return command.action((model: string, flags: ChatFlags) => {
    const open = async (name: string): Promise<OpenedEngine> => {
      const opened = await openEngine(name, flags, signal);
      if (opened.engine.info.hasChatTemplate) return opened;
      await opened.close();
      throw new ReadMeError("ERR_CHAT_TEMPLATE", `${name}: has no chat template; use generate`);
    };
    return runChat({
      model,
      system: flags.system,
      params: ({ info }) => samplingParams(flags, "chat", info.samplingDefaults),
      open,
    });
  });
}
