// Turns requests away before their bodies are read, where the server is full whatever they say; counts those that it reads.

import type { RequestHandler } from "express";
import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { clientName } from "../http/client-name.ts";
import { bodyTooLarge } from "../http/errors.ts";
import { localsOf } from "../http/locals.ts";

interface Doors {
  readonly models: Pick<ServedModels, "isDraining">;
  readonly admission: Pick<Admission, "refuseIfFull" | "arrive">;
  readonly maxBodyBytes: number;
}

/**
 * Keeps room for a body until `endArrival` of `res.locals.readMe` is called, or the answer is over. Refuses bodies for
 * which there is no room, and those that are too long by what they say.
 */
export function refuseEarly({ models, admission, maxBodyBytes }: Doors): RequestHandler {
  return (request, response, next) => {
    // Those who come to a server that shuts down are told so, and not to come back.
    if (models.isDraining) return next();
    const length = Number(request.headers["content-length"] ?? NaN);
    // A compressed body may be shorter or longer than what is in it.
    const isKnown = length >= 0 && request.headers["content-encoding"] === undefined;
    const locals = localsOf(response);
    const about = { key: locals.key, client: clientName(request, response) };
    try {
      if (length > maxBodyBytes) throw bodyTooLarge();
      admission.refuseIfFull({ ...about, bytes: isKnown ? length : 0 });
      const endArrival = admission.arrive({ ...about, bytes: isKnown ? length : maxBodyBytes });
      locals.endArrival = endArrival;
      response.once("close", endArrival);
    } catch (error) {
      return next(error);
    }
    next();
  };
}
