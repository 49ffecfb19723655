import { Command, type Option } from "commander";
import type { EngineFlags } from "../engine.ts";
import { MODEL_ARGUMENT } from "../model-path.ts";
import { controlTokensOption, expertCacheOption, expertOption, isolationOption, runtimeOptions } from "../options.ts";
import { recordTraceOption } from "../simulation/record-trace-file.ts";
import { runServer } from "../serving/run-server.ts";
import { servingOptions, type ServingFlags } from "../serving/serving-flags.ts";

export interface ServeFlags extends EngineFlags, ServingFlags {}

export function serveCommand(signal: AbortSignal): Command {
  const command = new Command("serve")
    .summary("serve a model over HTTP, with the OpenAI API")
    .description(
      "Serves a model with the OpenAI API under /v1, and /health, /livez, /readyz, /metrics and /version beside it.\n" +
        "SIGTERM or Ctrl-C: takes no more requests, ends those under way, and leaves; a second one leaves at once.",
    )
    .argument("<model>", MODEL_ARGUMENT);
  const options: readonly Option[] = [
    ...servingOptions(),
    expertOption(),
    ...runtimeOptions(),
    expertCacheOption(),
    isolationOption(),
    controlTokensOption(),
    recordTraceOption(),
  ];
  for (const option of options) command.addOption(option);
  return command.action((path: string, flags: ServeFlags) => runServer(path, flags, signal));
}
