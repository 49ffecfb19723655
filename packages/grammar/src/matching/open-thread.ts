import { Worker } from "node:worker_threads";
import type { HomeData } from "./protocol.ts";

// Sources run as they are in development and tests, and built in a package.
const IS_SOURCE = import.meta.url.endsWith(".ts");
const ENTRY = new URL(`./matcher-main${IS_SOURCE ? ".ts" : ".js"}`, import.meta.url);

// Threads get the program's flags; this one stops them, since it is about the text of a program that is no file.
const THREAD_FLAGS = process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {};

export function openThread(data: HomeData): Worker {
  const options = { name: "readme-moe-grammar", workerData: data };
  if (!IS_SOURCE) return new Worker(ENTRY, { ...THREAD_FLAGS, ...options });
  // Node 20 does not hand a loader of TypeScript down to threads, so the thread asks for it itself.
  const entry = JSON.stringify(ENTRY.href);
  const code = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); });`;
  return new Worker(code, { ...options, eval: true });
}
