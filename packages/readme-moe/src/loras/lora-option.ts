import { InvalidArgumentError, Option } from "commander";

/** One `[NAME=]FOLDER` of the command line. */
export interface LoraArgument {
  readonly name: string | undefined;
  /** Folder, or id of the hub. */
  readonly source: string;
}

export function loraOption(): Option {
  return new Option(
    "--lora <name=folder>",
    "adapter in PEFT's layout, or set of experts, over a dense model; may be repeated, and `name=` left out",
  ).argParser(loraArgument);
}

/** Parses `NAME=FOLDER` or a folder, for commander's repeated options. */
function loraArgument(text: string, previous: readonly LoraArgument[] = []): readonly LoraArgument[] {
  const [, name, source = text] = /^([^=/\\]*)=(.*)$/s.exec(text) ?? [];
  if (name === "" || source === "")
    throw new InvalidArgumentError("Expected NAME=FOLDER, such as legal=adapters/legal.");
  return [...previous, { name, source }];
}
