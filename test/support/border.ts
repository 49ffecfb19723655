// The API as tests mount it: Express' own middleware, or the handler of web requests behind a Node server of Hono.

import { getRequestListener } from "@hono/node-server";
import { readMe as readMeOfExpress, type FetchOptions, type ReadMeOptions } from "@readme-moe/express";
import type { Request as ExpressRequest, RequestHandler } from "express";

export type Border = "express" | "fetch";

let border: Border = process.env["README_MOE_BORDER"] === "fetch" ? "fetch" : "express";

/** Chooses what `readMe` of this file makes from now on. Its default is `README_MOE_BORDER`, or Express. */
export function serveOver(chosen: Border): void {
  border = chosen;
}

const API = /^\/(v1(\/|$)|tokenize|detokenize|openapi\.json)/;
const OPERATIONS = /^\/(health|livez|readyz|metrics|version)/;

/** Creates middleware with the routes of `readMe` over the chosen border. Hooks must not use the request. */
export function readMe(options: ReadMeOptions): RequestHandler {
  return border === "express" ? readMeOfExpress(options) : overFetch(options, [API, OPERATIONS]);
}

readMe.api = (options: ReadMeOptions): RequestHandler =>
  border === "express" ? readMeOfExpress.api(options) : overFetch(options, [API]);

/** Leaves other paths to the app, as the middleware does. */
function overFetch(options: ReadMeOptions, paths: readonly RegExp[]): RequestHandler {
  const { fetch } = readMeOfExpress.fetch(options as FetchOptions);
  const listener = getRequestListener(
    (request, { incoming }) => fetch(request, { address: (incoming as ExpressRequest).ip }),
    { overrideGlobalObjects: false },
  );
  return (request, response, next) => {
    if (paths.some((path) => path.test(request.path))) void listener(request, response);
    else next();
  };
}
