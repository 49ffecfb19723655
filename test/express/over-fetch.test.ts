// Tests of the middleware, run over the handler of web requests behind Hono's server.

import { describe } from "vitest";
import { serveOver } from "../support/border.ts";

serveOver("fetch");

// Files that mount `readMe` of `test/support/border.ts`. All of them run with README_MOE_BORDER=fetch.
describe("api-stream", async () => {
  await import("./api-stream.test.ts");
});
describe("api-routes", async () => {
  await import("./api-routes.test.ts");
});
describe("cors", async () => {
  await import("./cors.test.ts");
});
