// Texts to tokens and back, in vLLM's shapes.

import type { Engine } from "@readme-moe/core";
import type { Request, Response } from "express";
import { planTools } from "../tools/plan-tools.ts";
import { templateMessages } from "./chat/plan-chat.ts";
import { callerError, engineError } from "../http/errors.ts";
import { checkIds } from "./sampling.ts";
import { readBody } from "./schemas/read-body.ts";
import { detokenizeBody, tokenizeBody, type TokenizeBody } from "./schemas/token-bodies.ts";
import type { ServedModels } from "../edge/served-models.ts";

export async function tokenize(models: ServedModels, request: Request, response: Response): Promise<void> {
  const body = readBody(tokenizeBody, request.body);
  await withEngine(models, body, request, async (engine) => {
    const tokens = Array.from(await tokensOf(engine, body));
    response.json({ count: tokens.length, max_model_len: engine.info.contextTokens, tokens });
  });
}

export async function detokenize(models: ServedModels, request: Request, response: Response): Promise<void> {
  const body = readBody(detokenizeBody, request.body);
  await withEngine(models, body, request, async (engine) => {
    checkIds("tokens", body.tokens, engine.info);
    response.json({ prompt: await engine.detokenize(body.tokens) });
  });
}

/** Tokens are counted only; nothing is generated. */
const NOTHING_BOUND = { tagged: async () => ({ processor: () => () => undefined }) };

async function tokensOf(engine: Engine, body: TokenizeBody): Promise<Int32Array> {
  if ("prompt" in body) return engine.tokenize(body.prompt, { addSpecialTokens: body.add_special_tokens ?? true });
  try {
    const { messages, template } = await planTools(body, templateMessages(body.messages), engine.info, NOTHING_BOUND);
    const text = await engine.applyTemplate(messages, {
      ...body.chat_template_kwargs,
      ...template,
      addGenerationPrompt: body.add_generation_prompt ?? true,
    });
    return await engine.tokenize(text, { addSpecialTokens: body.add_special_tokens ?? false });
  } catch (error) {
    throw engineError(callerError(error, "messages"), "messages", engine.info);
  }
}

async function withEngine(
  models: ServedModels,
  body: { readonly model?: string | null | undefined },
  request: Request,
  use: (engine: Engine) => Promise<void>,
): Promise<void> {
  const lease = models.lease(body.model ?? undefined, { request, body });
  try {
    await use(lease.engine);
  } catch (error) {
    throw engineError(error, "model", lease.engine.info);
  } finally {
    lease.release();
  }
}
