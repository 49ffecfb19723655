import { randomUUID } from "node:crypto";
import type { ChatMessage, EngineInfo } from "@readme-moe/core";
import { checkSchemaSizes, type Constraint, type Grammars } from "@readme-moe/grammar";
import type { OutputParser } from "./output-parser.ts";
import { callAnswers } from "./call-format.ts";
import { invalidTools, usableTools, type ToolFields, type UsableTools } from "./definitions.ts";
import { ToolCallParser } from "./tool-call-parser.ts";
import { nativeMessages, plainMessages } from "./tool-messages.ts";

/** What tools make of a request. */
export interface ToolPlan {
  readonly messages: readonly ChatMessage[];
  /** Variables of the chat template. */
  readonly template: Readonly<Record<string, unknown>>;
  /** What answers are bound to; `undefined` where nothing can be called, or calls are left to the model. */
  readonly constraint: Constraint | undefined;
  /** For each choice; `undefined` where all text is content. */
  readonly newParser: (() => OutputParser) | undefined;
}

/**
 * Tells the model of its tools, and binds its answers: a required call to the schemas of the tools, and any text of its
 * own choice to be free until it begins a call. Where a schema cannot be honoured, a call that is neither required nor
 * strict is left to the model.
 *
 * @param messages - as the template gets them without tools
 * @throws {ApiError} 400 naming the parameter
 * @throws {ReadMeError} as `Grammars.tagged`
 */
export async function planTools(
  fields: ToolFields,
  messages: readonly ChatMessage[],
  info: Pick<EngineInfo, "chatTemplateKnowsTools">,
  grammars: Pick<Grammars, "tagged">,
): Promise<ToolPlan> {
  const usable = usableTools(fields);
  const { told, callable } = usable;
  checkSizes(told);
  const shown = info.chatTemplateKnowsTools
    ? { messages: nativeMessages(messages), template: told.length === 0 ? {} : { tools: told } }
    : { messages: plainMessages(messages, callable.length === 0 ? [] : told), template: {} };
  if (callable.length === 0) return { ...shown, constraint: undefined, newParser: undefined };
  const constraint = await bindCalls(usable, grammars);
  const isBound = constraint !== undefined;
  return { ...shown, constraint, newParser: () => new ToolCallParser({ isBound, newId }) };
}

async function bindCalls(usable: UsableTools, grammars: Pick<Grammars, "tagged">): Promise<Constraint | undefined> {
  try {
    return await grammars.tagged(callAnswers(usable));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    const isNeeded = usable.isRequired || usable.callable.some((tool) => tool.function.strict === true);
    if (isNeeded) throw invalidTools("tools", error.message, error);
    return undefined;
  }
}

/** Before anything else is done with them, also where a call is left to the model. */
function checkSizes(tools: UsableTools["told"]): void {
  try {
    checkSchemaSizes(tools.map((tool) => tool.function.parameters ?? {}));
  } catch (error) {
    if (error instanceof RangeError) throw invalidTools("tools", error.message, error);
    throw error;
  }
}

function newId(): string {
  return `call_${randomUUID().replaceAll("-", "").slice(0, 24)}`;
}
