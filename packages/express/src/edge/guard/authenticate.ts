import type { Request, RequestHandler } from "express";
import { ApiError, sendError } from "../../http/errors.ts";
import { KeyRing } from "./key-ring.ts";
import { guardedLocals } from "./locals.ts";

/**
 * Decides who may ask.
 * @returns a name for limits, logs and metrics, or `true` for one that has none; anything else refuses with 401. An
 * `ApiError` that is thrown is the answer.
 */
export type Authorize = (request: Request) => Authorization | Promise<Authorization>;
type Authorization = string | boolean | undefined;

/** @param keys - see `KeyRing` */
export function authorizeByKeys(keys: readonly string[] | Readonly<Record<string, string>>): Authorize {
  const ring = new KeyRing(keys);
  return (request) => {
    const key = bearerToken(request);
    return key === undefined ? undefined : ring.nameOf(key);
  };
}

export function authenticate(authorize: Authorize): RequestHandler {
  return async (request, response, next) => {
    try {
      const answer = await authorize(request);
      if (typeof answer === "string" && answer !== "") guardedLocals(response).key = answer;
      else if (answer !== true) throw invalidKey(bearerToken(request) !== undefined);
    } catch (error) {
      sendError(response, error);
      return;
    }
    next();
  };
}

function bearerToken(request: Request): string | undefined {
  return /^bearer +([\x21-\x7e]+) *$/i.exec(request.get("authorization") ?? "")?.[1];
}

function invalidKey(wasPresented: boolean): ApiError {
  const message = wasPresented
    ? "Incorrect API key provided."
    : "You didn't provide an API key; send one as `Authorization: Bearer …`.";
  const headers = { "www-authenticate": "Bearer" };
  return new ApiError({ status: 401, type: "invalid_request_error", code: "invalid_api_key", message, headers });
}
