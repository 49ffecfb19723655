// Turns requests away before their bodies are read, where the server is full whatever they say.

import type { RequestHandler } from "express";
import type { Admission } from "../edge/admission.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { localsOf } from "../http/locals.ts";

interface Doors {
  readonly models: Pick<ServedModels, "isDraining">;
  readonly admission: Pick<Admission, "refuseIfFull">;
}

/** Of a body that nobody reads, what is received all the same for the sake of the connection. */
const MAX_UNREAD_BYTES = 64 << 10;

export function refuseEarly({ models, admission }: Doors): RequestHandler {
  return (request, response, next) => {
    // Those who come to a server that shuts down are told so, and not to come back.
    if (models.isDraining) return next();
    const length = Number(request.headers["content-length"] ?? NaN);
    const isPlain = request.headers["content-encoding"] === undefined;
    try {
      // A compressed body may be shorter or longer than what is in it.
      admission.refuseIfFull({ key: localsOf(response).key, bytes: isPlain && length >= 0 ? length : 0 });
    } catch (error) {
      if (!(length <= MAX_UNREAD_BYTES)) response.setHeader("Connection", "close");
      return next(error);
    }
    next();
  };
}
