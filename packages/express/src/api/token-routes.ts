// Texts to tokens and back, in vLLM's shapes.

import type { Engine } from "@readme-moe/core";
import type { Request, Response } from "express";
import { clientName } from "../http/client-name.ts";
import { clientSignal } from "../http/client-signal.ts";
import { callerError, engineError } from "../http/errors.ts";
import { localsOf } from "../http/locals.ts";
import { LIMITS } from "../limits.ts";
import { sendJson } from "../http/send-whole.ts";
import { planTools } from "../tools/plan-tools.ts";
import { templateMessages } from "./chat/plan-chat.ts";
import { checkIds } from "./sampling.ts";
import { readBody } from "./schemas/read-body.ts";
import { detokenizeBody, tokenizeBody, type TokenizeBody } from "./schemas/token-bodies.ts";
import type { Serving } from "./serve-generation.ts";

/** A byte of a body comes to so many of an answer at most: an id and its comma for a byte of text, or a long token's text for an id. */
const ANSWER_BYTES_PER_BYTE = 16;

export async function tokenize(serving: Serving, request: Request, response: Response): Promise<void> {
  const body = readBody(tokenizeBody, request.body);
  await admitted(serving, body, { request, response }, async (engine, signal) => {
    const tokens = Array.from(await tokensOf(engine, body, signal));
    return { count: tokens.length, max_model_len: engine.info.contextTokens, tokens };
  });
}

export async function detokenize(serving: Serving, request: Request, response: Response): Promise<void> {
  const body = readBody(detokenizeBody, request.body);
  await admitted(serving, body, { request, response }, async (engine) => {
    checkIds("tokens", body.tokens, engine.info);
    return { prompt: await engine.detokenize(body.tokens) };
  });
}

/** Tokens are counted only; nothing is generated. */
const NOTHING_BOUND = { tagged: async () => ({ processor: () => () => undefined }) };

async function tokensOf(engine: Engine, body: TokenizeBody, signal: AbortSignal): Promise<Int32Array> {
  // More than the context: who shortens a conversation has to know by how much.
  const limits = { maxTokens: Math.max(LIMITS.tokenIds.value, engine.info.contextTokens), signal };
  if ("prompt" in body) {
    return engine.tokenize(body.prompt, { addSpecialTokens: body.add_special_tokens ?? true, ...limits });
  }
  try {
    const { messages, template } = await planTools(body, templateMessages(body.messages), engine.info, NOTHING_BOUND);
    const variables = { ...body.chat_template_kwargs, ...template };
    const addGenerationPrompt = body.add_generation_prompt ?? true;
    const chat = { messages, template: { ...variables, addGenerationPrompt } };
    return await engine.tokenize(chat, { addSpecialTokens: body.add_special_tokens ?? false, ...limits });
  } catch (error) {
    throw engineError(callerError(error, "messages"), "messages", engine.info);
  }
}

/** Keeps a place, as a generation does, until the answer is with its reader. */
async function admitted(
  serving: Serving,
  body: { readonly model?: string | null | undefined },
  { request, response }: { readonly request: Request; readonly response: Response },
  answer: (engine: Engine, signal: AbortSignal) => Promise<object>,
): Promise<void> {
  const locals = localsOf(response);
  const lease = serving.models.lease(body.model ?? undefined, { request, body });
  try {
    locals.endArrival?.();
    const ticket = serving.admission.enter({
      bytes: (locals.bodyBytes ?? 0) * ANSWER_BYTES_PER_BYTE,
      maxPromptTokens: 0,
      maxCompletionTokens: 0,
      choices: 1,
      key: locals.key,
      client: clientName(request, response),
      isGeneration: false,
      priority: 0,
      signal: clientSignal(response),
      model: lease.name,
    });
    try {
      const result = await answer(lease.engine, ticket.signal);
      ticket.signal.throwIfAborted();
      ticket.started();
      await sendJson(response, result, serving);
    } finally {
      ticket.release();
    }
  } catch (error) {
    const param = ["prompt", "messages", "tokens"].find((name) => name in body) ?? "model";
    throw engineError(error, param, lease.engine.info);
  } finally {
    lease.release();
  }
}
