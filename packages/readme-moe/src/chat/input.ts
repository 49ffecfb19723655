// Input of a user in a chat: messages of one or more lines, and commands. Pure functions.

import { nearestName } from "@readme-moe/core";

/** A command of the chat with its argument, a message, or a command that does not exist. */
export type ChatInput =
  | { readonly kind: "message"; readonly text: string }
  | { readonly kind: "command"; readonly name: CommandName; readonly argument: string }
  | { readonly kind: "wrong"; readonly why: string };

/** Lines of a message that has begun with `"""`; `undefined` outside of one. */
export type OpenLines = readonly string[] | undefined;

/** A command: what it takes, and what it does. */
interface Command {
  /** Argument in the help text; in brackets if it may be left out. */
  readonly argument?: string;
  readonly help: string;
}

/** Words that end the chats of other programs, such as Ollama's. */
const OTHER_EXITS: readonly string[] = ["bye", "quit"];
const COMMAND_NAMES = ["help", "clear", "system", "model", "save", "load", "exit"] as const;

type CommandName = (typeof COMMAND_NAMES)[number];

const COMMANDS: Readonly<Record<CommandName, Command>> = {
  help: { help: "show this list" },
  clear: { help: "start a new chat" },
  system: { argument: "[text]", help: "set the system message and start a new chat; without a text, remove it" },
  model: { argument: "[name]", help: "go on with another model; without a name, show the model" },
  save: { argument: "<file>", help: "write the chat to a file" },
  load: { argument: "<file>", help: "go on with a chat from a file" },
  exit: { help: "end the program, as Ctrl-D does" },
};

const MARK = '"""';

/** Describes the commands, a line each. */
export function helpLines(): readonly string[] {
  const rows = COMMAND_NAMES.map((name): readonly [call: string, help: string] => {
    const { argument, help } = COMMANDS[name];
    return [argument === undefined ? `/${name}` : `/${name} ${argument}`, help];
  });
  const width = Math.max(...rows.map(([call]) => call.length));
  return [
    ...rows.map(([call, help]) => `${call.padEnd(width)}  ${help}`),
    `${MARK} begins and ends a message of several lines. Ctrl-C stops an answer.`,
  ];
}

/**
 * Reads the next line.
 *
 * @param open - lines of the message that has begun
 * @returns the open lines from now on, and what the user has entered, if it is complete
 */
export function readLine(open: OpenLines, line: string): { readonly open: OpenLines; readonly input?: ChatInput } {
  if (open !== undefined) {
    if (!line.trimEnd().endsWith(MARK)) return { open: [...open, line] };
    const lines = [...open, line.trimEnd().slice(0, -MARK.length)];
    return { open: undefined, ...messageOf(lines.join("\n").replace(/\n$/, "")) };
  }
  if (line.trimStart().startsWith(MARK)) {
    const rest = line.trimStart().slice(MARK.length);
    if (rest.trimEnd().endsWith(MARK)) {
      return { open: undefined, ...messageOf(rest.trimEnd().slice(0, -MARK.length)) };
    }
    return { open: rest === "" ? [] : [rest] };
  }
  const [, word, argument = ""] = /^\s*\/([a-z]+)(?:\s+(.*))?$/i.exec(line) ?? [];
  if (word === undefined) return { open: undefined, ...messageOf(line) };
  const name = word.toLowerCase();
  return { open: undefined, input: commandOf(OTHER_EXITS.includes(name) ? "exit" : name, argument.trim()) };
}

function messageOf(text: string): { readonly input?: ChatInput } {
  return text.trim() === "" ? {} : { input: { kind: "message", text } };
}

function commandOf(name: string, argument: string): ChatInput {
  if (!isCommand(name)) {
    const near = COMMAND_NAMES.filter((known) => known.startsWith(name.slice(0, 2)));
    const [first = nearestName(name, COMMAND_NAMES), ...more] = near;
    const hint = first === undefined ? "/help shows all commands" : `did you mean /${[first, ...more].join(" or /")}?`;
    return { kind: "wrong", why: `/${name}: no such command; ${hint}` };
  }
  const { argument: wanted } = COMMANDS[name];
  if (wanted?.startsWith("<") && argument === "") {
    return { kind: "wrong", why: `/${name}: expected ${wanted}, such as /${name} chat.json` };
  }
  if (wanted === undefined && argument !== "") return { kind: "wrong", why: `/${name}: expected nothing behind it` };
  return { kind: "command", name, argument };
}

function isCommand(name: string): name is CommandName {
  return COMMAND_NAMES.some((known) => known === name);
}
