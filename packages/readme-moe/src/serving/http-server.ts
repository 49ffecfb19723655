import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { messageOf, ReadMeError } from "@readme-moe/core";
import { answerErrors, ApiError, boundConnections, LIMITS, oneAtATime } from "@readme-moe/express";
import type { Express, Request, Response } from "express";

/** Limits for clients that send slowly and would hold connections for ever. Answers may take any time. */
const TIMEOUTS = {
  headersTimeout: 15_000,
  // Bodies have times of their own, of which that of files is the longest.
  requestTimeout: LIMITS.uploadMs.value + 60_000,
  // Longer than load balancers keep connections (60 s), so that they never use one that is being closed.
  keepAliveTimeout: 75_000,
  // How often Node checks these times; its default is twice the headers' timeout.
  connectionsCheckingInterval: 1000,
} as const;

export interface ListenOptions {
  readonly port: number;
  readonly host: string;
  /** Most connections at once; further ones are closed. */
  readonly maxConnections: number;
}

/** Listens on an address. @throws {ReadMeError} when the address is taken or not allowed */
export async function listen(app: Express, { port, host, maxConnections }: ListenOptions): Promise<Server> {
  const server = createServer(TIMEOUTS, listenerOf(app));
  server.maxConnections = maxConnections;
  boundConnections(server);
  try {
    server.listen(port, host);
    await once(server, "listening");
  } catch (cause) {
    const why = messageOf(cause);
    const advice = adviceOnListening(Object(cause) as NodeJS.ErrnoException);
    throw new ReadMeError("ERR_RUNTIME", `Cannot listen on ${host}:${port}: ${why}${advice}`, { cause });
  }
  return server;
}

/** Returns what to do about an address that cannot be listened on, or nothing. */
function adviceOnListening({ code }: Pick<NodeJS.ErrnoException, "code">): string {
  if (code === "EADDRINUSE") {
    return "; choose another port with --port, or any free one with --port 0 (`readme-moe ps` lists the servers here)";
  }
  if (code === "EACCES") return "; this user may not use the port: choose one from 1024 up with --port";
  if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND") return "; --host has to be an address of this machine";
  return "";
}

/**
 * Makes a listener from an app. Express skips all handlers for a request whose target it cannot read, such as
 * `http://[`, and would answer it in HTML. Here the request waits for its turn and gets an error like any other.
 */
function listenerOf(app: Express): RequestListener {
  return (incoming, outgoing) => {
    // Express gives both their prototypes when the app handles them.
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
  const bound = server.address();
  if (bound === null || typeof bound === "string") throw new TypeError("Expected the server to listen on a port");
  const { address, port, family } = bound;
  return `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
}

/** Longest time for the last bytes of answers, after all requests have ended. */
const LAST_BYTES_MS = 2000;

/** Closes the server after the last answers are sent. */
export async function closeServer(server: Server): Promise<void> {
  const closed = once(server, "close");
  server.close();
  const timer = setTimeout(() => server.closeAllConnections(), LAST_BYTES_MS);
  await closed.finally(() => clearTimeout(timer));
}

export interface StopSignals extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * Listens to SIGTERM and SIGINT: the first aborts the signal, so that the server stops in order; the second ends the
 * process at once.
 * @param interrupted - aborted by the first SIGINT
 */
export function stopSignals(interrupted: AbortSignal): StopSignals {
  const stop = new AbortController();
  const stopWith = (code: number) => (): void => {
    if (stop.signal.aborted) process.exit(code);
    stop.abort();
  };
  const [onTerminate, onInterrupt] = [stopWith(143), stopWith(130)];
  process.on("SIGTERM", onTerminate).on("SIGINT", onInterrupt);
  if (interrupted.aborted) stop.abort();
  return {
    signal: stop.signal,
    [Symbol.dispose]() {
      process.off("SIGTERM", onTerminate).off("SIGINT", onInterrupt);
    },
  };
}
