// Reports how requests end to the models that answered them.

import type { ReadMeEmitter } from "@readme-moe/core";
import { hostRequest, type Incoming, type Reply, type Step } from "../../http/border.ts";
import { asApiError } from "../../http/errors.ts";
import { knownLocals } from "../../http/request.ts";
import type { ServedModels } from "../served-models.ts";
import { faultChain, outcomeKind } from "./engine-health.ts";

/**
 * Middleware in front of the API that reports how requests end: to the models that answered them, and as
 * `request:failed` where the server is to blame.
 */
export function reportOutcomes(models: ServedModels, events: ReadMeEmitter): Step {
  return (request, response, next) => {
    response.once("close", () => report(models, events, request, response));
    next();
  };
}

function report(models: ServedModels, events: ReadMeEmitter, request: Incoming, response: Reply): void {
  const readMe = knownLocals(response);
  const error = readMe?.error;
  const lease = models.leaseOf(hostRequest(request));
  if (error === undefined) {
    // A complete answer that an engine has computed shows that the engine works.
    if (readMe?.runsEngine && response.statusCode === 200 && response.writableFinished) lease?.ended();
    return;
  }
  const { status } = asApiError(error);
  if (outcomeKind(error) === "fault" || status === 500) {
    const { requestId = "" } = readMe ?? {};
    events.emit("request:failed", { requestId, model: lease?.name, status, causes: faultChain(error) });
  }
  // After the event: this failure may be the one that makes the engine count as failing.
  lease?.ended(error);
}
