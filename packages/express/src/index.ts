export * from "./fetch.ts";
export { answerErrors, answerNotFound } from "./http/errors.ts";
export { oneAtATime } from "./http/request.ts";
export { boundConnections, isLoopback, localHostsOnly } from "./http/server.ts";
export { readMe } from "./read-me.ts";
