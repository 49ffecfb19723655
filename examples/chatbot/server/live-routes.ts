// The routes of `/live`: the live view of models as server-sent events, and changes of their settings.

import { ReadMeError } from "@readme-moe/core";
import express, { Router, type NextFunction, type Request, type Response } from "express";
import { MAX_SIMULATED_CHATS, SCHEDULERS } from "../shared/live.ts";
import type { LiveModel } from "./live-model.ts";

/** An error of a client, with its HTTP status. */
class Refusal extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** @param documents - name of the documents that can be asked */
export function liveRoutes(models: readonly LiveModel[], documents?: string): Router {
  const router = Router();
  const named = (name: unknown): LiveModel => {
    const found = models.find(({ choice }) => choice.name === name);
    if (!found) throw new Refusal(404, `Expected \`model\` to be one that is served, got ${JSON.stringify(name)}`);
    return found;
  };

  router.get("/models", (_, response) => {
    response.json(models.map(({ choice }) => choice));
  });

  router.get("/documents", (_, response) => {
    response.json({ title: documents });
  });

  router.get("/", async (request, response) => {
    const model = named(request.query["model"]);
    if (model.readers.isFull) throw new Refusal(503, "There are too many readers already");
    if (request.method === "HEAD") {
      response.type("text/event-stream").end();
      return;
    }
    const first = await model.snapshot();
    if (response.destroyed) return;
    model.readers.add(response);
    response.write(`data: ${JSON.stringify(first)}\n\n`);
    // Changes since the snapshot was taken were sent to other readers only.
    model.sendSoon();
  });

  // Only JSON is accepted, which a form of another site cannot send.
  router.use(express.json({ limit: "4kb" }));
  const change = (path: string, apply: (model: LiveModel, body: Record<string, unknown>) => unknown): void => {
    router.post(path, async (request, response) => {
      const body = request.body as Record<string, unknown> | undefined;
      if (typeof body !== "object" || body === null) throw new Refusal(415, "Expected a body of JSON");
      const model = named(body["model"]);
      await apply(model, body);
      response.json(await model.snapshot());
    });
  };
  change("/scheduling", (model, { scheduler }) => {
    const known = SCHEDULERS.find((name) => name === scheduler);
    if (!known) throw new Refusal(400, `Expected \`scheduler\` to be one of ${SCHEDULERS.join(", ")}`);
    return model.setScheduler(known);
  });
  change("/memory", (model, { bytes }) => {
    if (!Number.isSafeInteger(bytes)) throw new Refusal(400, "Expected `bytes` to be an integer");
    return model.setMemory(bytes as number);
  });
  change("/load", (model, { chats }) => {
    const isCount = Number.isInteger(chats) && Number(chats) >= 0 && Number(chats) <= MAX_SIMULATED_CHATS;
    if (!isCount) throw new Refusal(400, `Expected \`chats\` to be from 0 to ${MAX_SIMULATED_CHATS}`);
    model.setSimulatedChats(Number(chats));
  });

  router.use(answerError);
  return router;
}

// Express recognises error handlers by their four parameters.
function answerError(error: unknown, _request: Request, response: Response, next: NextFunction): void {
  if (response.headersSent) {
    next(error);
    return;
  }
  const message = error instanceof Error ? error.message : String(error);
  response.status(statusOf(error)).json({ error: { message } });
}

function statusOf(error: unknown): number {
  if (error instanceof Refusal) return error.status;
  if (error instanceof ReadMeError) return 503;
  if (error instanceof RangeError || error instanceof TypeError) return 400;
  // Errors of Express's body parser have a status.
  const { status } = error as { status?: unknown };
  return typeof status === "number" ? status : 500;
}
