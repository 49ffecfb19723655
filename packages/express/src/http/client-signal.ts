import type { Response } from "express";

/** Nobody is there to be answered any more. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/**
 * Aborts with `ClientGone` when the connection ends before the answer does. The answer's `close` tells: the request's
 * fires as soon as its body was read.
 */
export function clientSignal(response: Response): AbortSignal {
  const controller = new AbortController();
  const onClose = (): void => {
    if (!response.writableFinished) controller.abort(new ClientGone("The client closed the connection"));
  };
  if (response.destroyed || response.closed) onClose();
  else response.once("close", onClose);
  return controller.signal;
}
