import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { ReadMeError } from "@readme-moe/core";
import { answerErrors, ApiError, boundConnections, oneAtATime } from "@readme-moe/express";
import type { Express, Request, Response } from "express";

/** Clients that send slowly must not hold connections for ever. Answers may take as long as they need. */
const TIMEOUTS = {
  headersTimeout: 15_000,
  requestTimeout: 60_000,
  // Longer than balancers keep theirs (60 s), so that they never use one that is just being closed.
  keepAliveTimeout: 75_000,
  // Node looks for late ones this often; its default is twice the time that headers may take.
  connectionsCheckingInterval: 1000,
} as const;

export interface ListenOptions {
  readonly port: number;
  readonly host: string;
  /** Connections at once; more are closed as they come. */
  readonly maxConnections: number;
}

/** @throws {ReadMeError} when the address cannot be had */
export async function listen(app: Express, { port, host, maxConnections }: ListenOptions): Promise<Server> {
  const server = createServer(TIMEOUTS, listenerOf(app));
  server.maxConnections = maxConnections;
  boundConnections(server);
  try {
    server.listen(port, host);
    await once(server, "listening");
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ReadMeError("ERR_RUNTIME", `Cannot listen on ${host}:${port}: ${why}`, { cause });
  }
  return server;
}

/**
 * Makes a listener of an app. Express passes a request whose target it cannot read, such as `http://[`, by every handler
 * of the app, and would answer it in HTML; here it is refused like any other, and waits for its turn.
 */
function listenerOf(app: Express): RequestListener {
  return (incoming, outgoing) => {
    const [request, response] = [incoming as Request, outgoing as Response];
    const refuse = (error?: unknown): void => {
      const details = { status: 400, type: "invalid_request_error", code: "invalid_request" };
      const unreadable = new ApiError({ ...details, message: "The request's target could not be read" });
      void answerErrors(error ?? unreadable, request, response, () => undefined);
    };
    void oneAtATime(request, response, () => void app(request, response, refuse));
  };
}

export function urlOf(server: Server): string {
  const { address, port, family } = server.address() as AddressInfo;
  return `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
}

/** What is left to send when all requests have ended takes no longer. */
const LAST_BYTES_MS = 2000;

/** Closes once the last answers are out. */
export async function closeServer(server: Server): Promise<void> {
  const closed = once(server, "close");
  server.close();
  const timer = setTimeout(() => server.closeAllConnections(), LAST_BYTES_MS);
  await closed.finally(() => clearTimeout(timer));
}
