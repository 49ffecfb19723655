// Generates the reference of the command line from the program that parses it.

import { commandLine, openLab } from "readme-moe";
import { code, prose, table } from "./markdown.ts";

type Command = ReturnType<typeof commandLine>;
type Option = Command["options"][number];

export async function commandSections(): Promise<string> {
  const { commands } = commandLine(new AbortController().signal, await openLab());
  return commands
    .toSorted((a, b) => (a.name() < b.name() ? -1 : 1))
    .flatMap((command) => sections(command, command.name()))
    .join("\n\n");
}

/** Writes a command's section, and those of the commands that it consists of. */
function sections(command: Command, name: string): readonly string[] {
  return [section(command, name), ...command.commands.flatMap((child) => sections(child, `${name} ${child.name()}`))];
}

function section(command: Command, name: string): string {
  return [
    `## ${name}`,
    code(`readme-moe ${name} ${command.usage()}`),
    ...command.description().split("\n\n").map(prose),
    ...(command.options.length > 0 ? [table(["option", "meaning", "default"], command.options.map(row))] : []),
  ].join("\n\n");
}

function row({
  flags,
  description,
  argChoices,
  defaultValue,
  defaultValueDescription,
  envVar,
}: Option): readonly string[] {
  // A description ends with its default in words if that depends on something else, or says that the option is required.
  const [, text = "", words, required] =
    /^([\s\S]*?)(?: \((?:default: ([\s\S]+)|(required))\))?$/.exec(description) ?? [];
  const choices = argChoices ? `: ${argChoices.map(code).join(", ")}` : "";
  const environment = envVar === undefined ? "" : `; also ${code(envVar)}`;
  return [
    code(flags),
    text + choices + environment,
    words ?? required ?? defaultValueDescription ?? fallbackOf(defaultValue),
  ];
}

function fallbackOf(value: unknown): string {
  if (value === undefined || typeof value === "boolean") return "";
  return code(Array.isArray(value) ? value.join(",") : JSON.stringify(value).replaceAll('"', ""));
}
