// Routes as a table, and the chain of steps that a request takes. Every host uses the same table.

import type { z } from "zod";
import { badRequest, notFound, refusal, sendError } from "./errors.ts";
import type { ApiName, Handler, Incoming, Next, Reply, Step } from "./request.ts";

type Method = "get" | "post" | "delete";

/** A schema under its name in the OpenAPI document. */
export type Named<Value = unknown> = Readonly<Record<string, z.ZodType<Value>>>;

/** A body or an answer that is no JSON object of one schema. */
export interface Media {
  readonly type: string;
  readonly description: string;
}

/** One route, as its documentation needs it. */
export interface RouteDescription {
  readonly method: Method;
  /** Segments of the path: `:name` stands for any one, `*name` for one or more. */
  readonly path: string;
  /** Further paths of the same. */
  readonly aliases?: readonly string[];
  /** The API whose errors it answers with. @default "openai" */
  readonly api?: ApiName;
  /** JSON that is checked before the handler, or a body that the handler reads. @default none is read */
  readonly body?: Named | Media;
  readonly answer: Named | Media;
  /** A part of a streamed answer. @default answers are not streamed */
  readonly chunk?: Named;
  /** Answer of status 503 of a route of health. */
  readonly unavailable?: Named;
}

/** A path, and the steps of its methods. */
export interface Route {
  /** Segments of the path: `:name` stands for any one, `*name` for one or more. */
  readonly path: string;
  /** The API whose errors it answers with. @default "openai" */
  readonly api?: ApiName | undefined;
  /** Steps before those of any method. */
  readonly front: readonly Step[];
  readonly methods: Readonly<Partial<Record<Method, readonly Step[]>>>;
}

/** All routes of a handler. */
export interface RouteTable {
  readonly routes: readonly Route[];
  /** Beginning of paths that belong to the API even if no route has them, and the steps before their refusal. */
  readonly rest?: { readonly prefix: string; readonly front: readonly Step[] };
}

/** Whether a body or an answer is no JSON object of a schema. */
export function isMedia(content: Named | Media): content is Media {
  return typeof content["type"] === "string";
}

/** Returns the schema of a JSON body or answer; `undefined` for other media, and for none. */
export function schemaOf(content: Named | Media | undefined): z.ZodType | undefined {
  return content === undefined || isMedia(content) ? undefined : Object.values<z.ZodType>(content)[0];
}

/** Joins the methods of each path. @param routes - each with the steps of its method, and those before any method's */
export function routesByPath(
  routes: readonly (Pick<RouteDescription, "path" | "aliases" | "api" | "method"> & {
    readonly front: readonly Step[];
    readonly steps: readonly Step[];
  })[],
): readonly Route[] {
  const table = new Map<string, Route>();
  for (const { path, aliases = [], api, front, method, steps } of routes) {
    for (const one of [path, ...aliases]) {
      table.set(one, { path: one, api, front, methods: { ...table.get(one)?.methods, [method]: steps } });
    }
  }
  return [...table.values()];
}

/** Makes a handler the last step of a chain. */
export function asStep(handler: Handler): Step {
  return (request, response) => handler(request, response);
}

/** The steps of one request. */
type Chain = (request: Incoming, response: Reply) => void;

/** @returns a function that finds the chain of a request; `undefined` if the table does not have the path */
export function routeMatcher({ routes, rest }: RouteTable): (request: Incoming) => Chain | undefined {
  const compiled = routes.map((route) => ({ route, ...compilePath(route.path) }));
  return ({ path, method }) => {
    for (const { route, pattern, names } of compiled) {
      const match = pattern.exec(path);
      if (!match) continue;
      const values = match.slice(1).map(decode);
      if (values.includes(undefined)) return answerUndecodable;
      return (request, response) => {
        request.params = Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""]));
        request.route = { path: route.path };
        request.api = route.api;
        runSteps(stepsOf(route, method), request, response);
      };
    }
    if (rest === undefined || !isBelow(path, rest.prefix)) return undefined;
    return (request, response) => {
      request.api = routes.find((route) => isBelow(path, route.path))?.api;
      runSteps([...rest.front, asStep(answerUnknown)], request, response);
    };
  };
}

const answerUndecodable: Chain = (_request, response) =>
  sendError(response, badRequest({ message: "The request could not be read", code: "invalid_request" }));

/** Answers 404 in the API's shape. */
export function answerUnknown(request: Incoming, response: Reply): void {
  sendError(response, notFound(request));
}

function isBelow(path: string, prefix: string): boolean {
  return path.toLowerCase() === prefix || path.toLowerCase().startsWith(`${prefix}/`);
}

function stepsOf({ front, methods }: Route, method: string): readonly Step[] {
  const { get, post, delete: remove } = methods;
  const byMethod: Readonly<Record<string, readonly Step[] | undefined>> = {
    GET: get,
    HEAD: get,
    POST: post,
    DELETE: remove,
  };
  const known = Object.keys(byMethod).filter((name) => byMethod[name] !== undefined);
  return [...front, ...((known.includes(method) && byMethod[method]) || [asStep(allowOnly(known))])];
}

function allowOnly(known: readonly string[]): Handler {
  const methods = known.join(", ");
  return (request, response) => {
    response.setHeader("Allow", methods);
    if (request.method === "OPTIONS") {
      response.statusCode = 204;
      response.end();
      return;
    }
    throw refusal(405, "method_not_allowed", `Expected ${methods}, got ${request.method}`);
  };
}

/** Takes a request through steps. What a step throws is the answer. */
export function runSteps(steps: readonly Step[], request: Incoming, response: Reply): void {
  const fail = (error: unknown): void => sendError(response, error);
  const go = (index: number): void => {
    const next: Next = (error) => (error === undefined ? go(index + 1) : fail(error));
    try {
      const running = steps[index]?.(request, response, next);
      if (running) running.catch(fail);
    } catch (error) {
      fail(error);
    }
  };
  go(0);
}

/** Compiles a path as Express does: in any case, and with or without a slash at its end. */
export function compilePath(path: string): { readonly pattern: RegExp; readonly names: readonly string[] } {
  const segments = path.split("/").slice(1);
  const names = segments.filter((segment) => /^[:*]/.test(segment)).map((segment) => segment.slice(1));
  const source = segments.map((segment) => {
    if (segment.startsWith(":")) return "/([^/]+)";
    return segment.startsWith("*") ? "/(.+)" : `/${segment.replaceAll(/[^\w]/g, String.raw`\$&`)}`;
  });
  return { pattern: new RegExp(`^${source.join("")}/?$`, "i"), names };
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
