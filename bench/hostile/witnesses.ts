// Well-behaved clients beside an attack: one requests answers, one liveness, one uploads files.

import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { batchForm, call as callOnce, WITNESS_KEY } from "./hostile-http.ts";

export interface Testimony {
  /** Milliseconds of each answer with 32 tokens. */
  readonly answersMs: readonly number[];
  readonly livezMs: readonly number[];
  /** Requests not answered with 200, each with its status or error. */
  readonly failures: readonly string[];
}

const PATIENCE_MS = 60_000;

/** Sends requests one after the other until the signal is aborted. */
export async function witness(port: number, signal: AbortSignal): Promise<Testimony> {
  const answersMs: number[] = [];
  const livezMs: number[] = [];
  const failures: string[] = [];
  const agent = new Agent({ keepAlive: true });
  const timed = async (times: number[], method: string, path: string, body?: object): Promise<void> => {
    const startMs = performance.now();
    const status = await call(agent, { port, method, path }, body);
    if (status === 200) times.push(performance.now() - startMs);
    else failures.push(`${path} ${status}`);
  };
  const prompt = "The ship was";
  const asking = async (): Promise<void> => {
    while (!signal.aborted) {
      await timed(answersMs, "POST", "/v1/completions", { prompt, max_tokens: 32, ignore_eos: true, seed: 1 });
      await sleep(50);
    }
  };
  const probing = async (): Promise<void> => {
    while (!signal.aborted) {
      await timed(livezMs, "GET", "/livez");
      await sleep(50);
    }
  };
  const uploading = async (): Promise<void> => {
    const [target, key] = [{ port, from: "127.0.0.1" }, WITNESS_KEY];
    while (!signal.aborted) {
      const patience = AbortSignal.timeout(PATIENCE_MS);
      const { status, json } = await callOnce(target, { path: "/v1/files", body: batchForm("{}"), key }, patience);
      if (status !== 200) failures.push(`/v1/files ${status}`);
      else await callOnce(target, { method: "DELETE", path: `/v1/files/${String(json["id"])}`, key }, patience);
      await sleep(500);
    }
  };
  await Promise.all([asking(), probing(), uploading()]);
  agent.destroy();
  return { answersMs, livezMs, failures };
}

interface Question {
  readonly port: number;
  readonly method: string;
  readonly path: string;
}

/** @returns the status, or the error */
function call(agent: Agent, { port, method, path }: Question, body?: object): Promise<number | string> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const length = text === undefined ? {} : { "content-length": Buffer.byteLength(text) };
  const headers = { authorization: `Bearer ${WITNESS_KEY}`, "content-type": "application/json", ...length };
  return new Promise((resolve) => {
    const asked = request(
      { agent, port, host: "127.0.0.1", method, path, headers, timeout: PATIENCE_MS },
      (response) => {
        response.resume();
        response.once("close", () => resolve(response.statusCode ?? 0));
      },
    );
    asked.once("timeout", () => asked.destroy(new Error("timeout")));
    asked.once("error", ({ message }) => resolve(message));
    asked.end(text);
  });
}
