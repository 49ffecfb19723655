// Asks a running server how it is: its routes of health and metrics, which need no key.

import type { ServerNote } from "./server-notes.ts";

/** Longest time for an answer. */
const TIMEOUT_MS = 2000;

/** Answer of a server about itself. */
export interface ServerReport {
  /** `ready`, or in words why it is not. */
  readonly state: string;
  /** Memory of the server and its engine; `undefined` where the server does not say. */
  readonly memoryBytes: number | undefined;
  /** Requests that have a first token, and those that wait for it. */
  readonly running: number | undefined;
  readonly queued: number | undefined;
}

/** Asks a server. @returns `undefined` if nothing listens at its address any more */
export async function askServer({ url, hasEngineInside }: ServerNote): Promise<ServerReport | undefined> {
  const base = reachable(url);
  try {
    const [readiness, metrics] = await Promise.all([get(`${base}/readyz`), get(`${base}/metrics`)]);
    const { active, queued } = Object(parsed(readiness.text)) as Readonly<Record<string, unknown>>;
    const state = readiness.isGood ? "ready" : reasonOf(readiness.text);
    return {
      state,
      memoryBytes: memoryIn(metrics.text, hasEngineInside),
      running: countOf(active),
      queued: countOf(queued),
    };
  } catch (error) {
    if (isRefusal(error)) return undefined;
    return { state: "no answer", memoryBytes: undefined, running: undefined, queued: undefined };
  }
}

/** Returns an address that this machine can call: a server on all addresses is asked on the loopback. */
export function reachable(url: string): string {
  return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
}

/** Adds up the memory that metrics of Prometheus name; the engine's counts once if it is part of the server. */
export function memoryIn(metrics: string, hasEngineInside: boolean): number | undefined {
  const server = sumOf(metrics, "process_resident_memory_bytes");
  const engines = hasEngineInside ? undefined : sumOf(metrics, "readme_engine_resident_bytes");
  return server === undefined ? engines : server + (engines ?? 0);
}

function sumOf(metrics: string, name: string): number | undefined {
  const values = [...metrics.matchAll(/^(\w+)(?:\{.*\})? (\S+)/gm)].filter(([, found]) => found === name);
  return values.length === 0 ? undefined : values.reduce((sum, [, , value]) => sum + Number(value), 0);
}

async function get(url: string): Promise<{ readonly isGood: boolean; readonly text: string }> {
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  return { isGood: response.ok, text: await response.text() };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function reasonOf(text: string): string {
  const { error } = Object(parsed(text)) as { readonly error?: { readonly message?: unknown } };
  return typeof error?.message === "string" ? error.message : "not ready";
}

function countOf(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}

function isRefusal(error: unknown): boolean {
  const { cause } = Object(error) as { readonly cause?: { readonly code?: unknown } };
  return cause?.code === "ECONNREFUSED";
}
