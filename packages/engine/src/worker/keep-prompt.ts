import type { Calls, WireKept, WirePrompt } from "../protocol.ts";
import { promptIds, routedPrompt, type RunningEngine } from "./requests.ts";

/** Answers `keepPrompt`, see `Calls`. */
export async function keepPrompt(
  engine: RunningEngine,
  { keptId, prompt, expert }: Calls["keepPrompt"]["args"],
  signal: AbortSignal,
): Promise<WireKept> {
  const tokenIds = await beginningIds(engine, prompt, signal);
  const { experts } = await routedPrompt(engine, tokenIds, expert);
  const kept = await engine.keptPrompts.keep(keptId, { tokenIds: Array.from(tokenIds), experts: Array.from(experts) });
  if (signal.aborted) engine.keptPrompts.release(keptId);
  return kept;
}

/**
 * Tokenizes what a prompt begins with. A chat that waits for its user begins every chat with these messages: templates
 * may put a system message anywhere, so two chats are compared.
 */
async function beginningIds(engine: RunningEngine, prompt: WirePrompt, signal: AbortSignal): Promise<Int32Array> {
  if (typeof prompt === "string" || prompt instanceof Int32Array || prompt.messages.at(-1)?.role === "user") {
    return promptIds(engine, prompt, signal);
  }
  const { messages, template } = prompt;
  const chats = ["1", "What?"].map((content) => ({ messages: [...messages, { role: "user", content }], template }));
  const [first, second] = await Promise.all(chats.map((chat) => promptIds(engine, chat, signal)));
  return commonBeginning(first ?? new Int32Array(), second ?? new Int32Array());
}

/** Returns the tokens that two lists begin with. */
export function commonBeginning(first: Int32Array, second: Int32Array): Int32Array {
  const differs = first.findIndex((id, at) => second[at] !== id);
  return first.slice(0, differs < 0 ? first.length : differs);
}
