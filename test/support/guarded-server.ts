// Servers behind the guard.

import express from "express";
import { onTestFinished } from "vitest";
import { guard, type GuardOptions } from "../../packages/express/src/edge/guard.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { listen } from "./served-model.ts";

type Ask = (headers?: Readonly<Record<string, string>>, method?: string) => Promise<Response>;

/** Starts a server that answers with the guard's locals, and spends the tokens of the header `tokens`. */
export async function guarded(options: GuardOptions = {}): Promise<{ readonly ask: Ask; readonly url: string }> {
  const app = express();
  app.set("trust proxy", true);
  app.use(guard(options));
  app.all("/echo/:id", (request, response) => {
    const { key, requestId, traceparent, spendTokens } = localsOf(response);
    spendTokens?.(Number(request.get("tokens") ?? 0));
    response.json({ key, requestId, traceparent });
  });
  const server = await listen(app);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return {
    url: server.url,
    ask: (headers = {}, method = "POST") => fetch(`${server.url}/echo/1`, { method, headers }),
  };
}

export async function errorOf(response: Response): Promise<{ readonly code: string; readonly type: string }> {
  return ((await response.json()) as { readonly error: { readonly code: string; readonly type: string } }).error;
}
