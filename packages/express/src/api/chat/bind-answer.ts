// What an answer is bound to: the format that is asked for, or the tools that may be called.

import type { ChatMessage, EngineInfo } from "@readme-moe/core";
import type { Asker, Constraint, Grammars } from "@readme-moe/grammar";
import { constraintOf } from "../../bound-answers.ts";
import { usableTools } from "../../tools/definitions.ts";
import { planTools } from "../../tools/plan-tools.ts";
import { invalid } from "../sampling.ts";
import type { ChatBody } from "../schemas/chat-body.ts";
import { unsupported } from "../schemas/read-body.ts";
import type { OutputParser } from "../../tools/output-parser.ts";

export interface BoundAnswer {
  readonly messages: readonly ChatMessage[];
  /** Variables of the chat template. */
  readonly template: Readonly<Record<string, unknown>>;
  readonly constraint: Constraint | undefined;
  readonly newParser: (() => OutputParser) | undefined;
}

/** What does not go together; to be said before anything is done. @throws {ApiError} 400 */
export function checkBinding(body: ChatBody): void {
  const { callable } = usableTools(body);
  const hasFormat = body.response_format && body.response_format.type !== "text";
  if (callable.length > 0 && hasFormat) {
    throw unsupported("response_format", "'response_format' is not supported beside `tools` that may be called");
  }
  const what = callable.length > 0 ? "tools" : hasFormat ? "response_format" : undefined;
  if (what === undefined) return;
  // A bound answer ends where its grammar does.
  if (body.ignore_eos) throw unsupported("ignore_eos", `'ignore_eos' is not supported beside '${what}'`);
  if (body.min_tokens) throw unsupported("min_tokens", `'min_tokens' is not supported beside '${what}'`);
}

/** @throws {ApiError} 400 naming the parameter; {ReadMeError} as `Grammars.jsonSchema` */
export async function bindAnswer(
  body: ChatBody,
  messages: readonly ChatMessage[],
  info: EngineInfo,
  { grammars, asker }: { readonly grammars: () => Promise<Grammars>; readonly asker: Asker },
): Promise<BoundAnswer> {
  const planned = await planTools(body, messages, info, {
    tagged: async (answers) => (await open("tools", grammars)).tagged(answers, asker),
  });
  const { response_format: format } = body;
  if (!format || format.type === "text") return planned;
  return { ...planned, constraint: await constraintOf(format, await open("response_format", grammars), asker) };
}

/** A model whose answers have no end cannot be bound, which is no mistake in a schema. */
async function open(param: string, grammars: () => Promise<Grammars>): Promise<Grammars> {
  try {
    return await grammars();
  } catch (error) {
    if (error instanceof TypeError) throw invalid(param, "this model's answers cannot be bound: it has no end token");
    throw error;
  }
}
