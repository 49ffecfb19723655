// Errors with their causes, in one line.

import type { ErrorLink } from "@readme-moe/core";

/** Each error's message with its code, then what caused it; what is in the message before is not said again. */
export function causesText(causes: readonly ErrorLink[]): string {
  const texts: string[] = [];
  for (const { name, code, message } of causes) {
    const text = `${oneLine(message) || name}${code === undefined ? "" : ` (${code})`}`;
    const isSaid = texts.some((before) => before.includes(oneLine(message))) && code === undefined;
    if (!isSaid || texts.length === 0) texts.push(text);
  }
  return texts.length === 0 ? "no reason was given" : texts.join("; caused by: ");
}

/** The same for failures of one kind, whatever numbers are in their messages, such as ids and layers. */
export function kindOf(causes: readonly ErrorLink[], ...more: readonly (string | number | undefined)[]): string {
  const texts = causes.map(({ name, code, message }) => [name, code, message.replaceAll(/\d+/g, "#")]);
  return JSON.stringify([more, texts]);
}

/** A log's reader takes lines: what a message has in it must not begin another one. */
function oneLine(message: string): string {
  return message.replaceAll(/\p{Cc}+/gu, " ").trim();
}
