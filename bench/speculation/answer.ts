// Runs requests on an engine.

import type { Engine, FinishReason, GenerateRequest } from "@readme-moe/core";
import { Grammars } from "@readme-moe/grammar";
import { SCHEMAS } from "./json-requests.ts";
import type { DraftedRequest } from "./request.ts";

/** A request that is ready to run. */
export interface ReadyRequest extends DraftedRequest {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  /** Text that the answer is expected to repeat. */
  readonly prediction?: readonly number[];
}

/** An answer and its times, in ms of `performance.now()`. */
export interface Answer {
  readonly tokenIds: readonly number[];
  readonly text: string;
  readonly finishReason: FinishReason | undefined;
  readonly startMs: number;
  /** Time of each token, `[tokens]`. */
  readonly tokenMs: readonly number[];
}

/** Makes the function that binds an answer to JSON; `undefined` for other requests. */
export type Processor = (request: DraftedRequest) => GenerateRequest["processLogits"];

/** Grammars of all schemas. */
export interface SchemaGrammars extends AsyncDisposable {
  readonly processorOf: Processor;
}

/** Compiles the grammars of all schemas once; both engines have the same vocabulary. */
export async function openSchemaGrammars(engine: Engine): Promise<SchemaGrammars> {
  const grammars = await Grammars.open(engine);
  const constraints = new Map<string, Awaited<ReturnType<Grammars["jsonSchema"]>>>();
  for (const [name, { schema }] of Object.entries(SCHEMAS)) {
    constraints.set(name, await grammars.jsonSchema(schema));
  }
  return {
    processorOf: ({ schema }) => (schema ? constraints.get(schema.name)?.processor() : undefined),
    [Symbol.asyncDispose]: () => grammars.dispose(),
  };
}

/** Tokenizes a prompt. A model without a chat template gets the turns as text. */
export async function promptTokens(engine: Engine, { prompt }: DraftedRequest): Promise<readonly number[]> {
  if (typeof prompt === "string") return Array.from(await engine.tokenize(prompt));
  if (isTokens(prompt)) return prompt;
  if (engine.info.hasChatTemplate) {
    const messages = prompt.map(({ role, content }) => ({ role, content }));
    return Array.from(await engine.tokenize({ messages }));
  }
  const turns = prompt.map(({ content }) => content);
  return Array.from(await engine.tokenize(`${turns.join("\n\n")}\n\n`));
}

function isTokens(prompt: Exclude<DraftedRequest["prompt"], string>): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}

/** Runs a request to its end. */
export async function answerOf(engine: Engine, request: ReadyRequest, processorOf: Processor): Promise<Answer> {
  const { promptIds, params, maxTokens, prediction } = request;
  const tokenIds: number[] = [];
  const tokenMs: number[] = [];
  let text = "";
  let finishReason: FinishReason | undefined;
  const startMs = performance.now();
  const generation = engine.generate({
    prompt: promptIds,
    params: { ...params, maxTokens },
    processLogits: processorOf(request),
    ...(prediction ? { prediction } : {}),
  });
  for await (const chunk of generation) {
    const nowMs = performance.now();
    for (const { id } of chunk.tokens) {
      tokenIds.push(id);
      tokenMs.push(nowMs);
    }
    text += chunk.text;
    finishReason = chunk.finishReason;
  }
  return { tokenIds, text, finishReason, startMs, tokenMs };
}
