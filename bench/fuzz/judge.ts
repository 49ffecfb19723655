// Checks the answers to a case by rules that hold for every case.

import { homedir } from "node:os";
import { errorAnswer } from "../../packages/express/src/api/answer-schemas.ts";
import { messagesError } from "../../packages/express/src/messages/schemas.ts";
import { ollamaError } from "../../packages/express/src/ollama/schemas.ts";
import type { Ask, FuzzCase } from "./fuzz-case.ts";
import { readAnswers, type HttpAnswer } from "./http-answers.ts";
import { isRefusable } from "./refusable.ts";
import { routesAt, wrongIn, wrongUnder } from "./right-answers.ts";
import type { Received } from "./send-case.ts";

export interface Verdict {
  readonly problems: readonly string[];
  /** Outcome, such as `200`, `400 invalid_value`, `left` (by the client). */
  readonly outcomes: readonly string[];
}

export interface Rules {
  readonly codes: ReadonlyMap<number, ReadonlySet<string>>;
  /** Paths of this machine that answers must not contain. */
  readonly secrets: readonly string[];
}

/**
 * Largest error body: an error may quote two names of 200 characters, written as escapes, but not the whole request.
 */
const MAX_ERROR_BYTES = 4096;
/** Endings after which a reset may discard an answer that the client has not read while it still sends. */
const RESETTABLE_BYTES = 60_000;
const STACK = /node_modules|node:internal|file:\/\/|\.[cm]?[jt]s:\d+|\\n\s+at /;
const HTML = /^\s*<(!doctype|html|head|body|pre)/i;
/** Statuses with which Node itself rejects invalid or late HTTP. */
const BARE_STATUSES: ReadonlySet<number> = new Set([400, 408, 413, 417, 431]);

export function rulesOf(codes: Rules["codes"], secrets: readonly string[]): Rules {
  return { codes, secrets: [process.cwd(), homedir(), ...secrets].filter((secret) => secret.length > 3) };
}

export function judge(sent: FuzzCase, received: Received, rules: Rules): Verdict {
  const { asks } = sent;
  const { answers, problem } = readAnswers(
    received.bytes,
    asks.map(({ method }) => method),
    received.isEnded,
  );
  const problems = answers.flatMap((answer, index) => judgeAnswer(answer, asks[index], sent, rules));
  if (received.isRefused) problems.push("the connection was refused");
  const isCut = sent.ending === "leave" || sent.ending === "half-close";
  if (isCut) return { problems, outcomes: [answers.length === 0 ? "left" : String(answers[0]?.status)] };
  if (problem !== undefined) problems.push(`no HTTP: ${problem}`);
  const isLeft = !received.isEnded && asks.some(({ mayBeLong }) => mayBeLong) && !isRefusable(sent);
  const isLost = received.isEnded && answers.length === 0 && sizeOf(sent) > RESETTABLE_BYTES;
  if (isLeft || isLost) return { problems, outcomes: [isLeft ? "left" : "lost"] };
  if (!received.isEnded) problems.push("the connection was not ended in time");
  problems.push(...judgeWhole(sent, answers));
  return { problems, outcomes: outcomesOf(answers) };
}

function outcomesOf(answers: readonly HttpAnswer[]): readonly string[] {
  if (answers.length === 0) return ["closed"];
  return answers.map(({ status, body }) => {
    const code = status < 400 ? undefined : codeOf(body);
    return code === undefined ? `${status}${status >= 400 ? " bare" : ""}` : `${status} ${code}`;
  });
}

/** Checks the number of answers, and that each is complete. */
function judgeWhole({ asks, isSound }: FuzzCase, answers: readonly HttpAnswer[]): readonly string[] {
  const problems: string[] = [];
  if (isSound && answers.length !== asks.length) problems.push(`${answers.length} answers to ${asks.length} requests`);
  // The rest of an unsound body may be read as one more request, which is rejected.
  if (answers.length > asks.length + (isSound ? 0 : 1))
    problems.push(`${answers.length} answers to ${asks.length} requests`);
  if (answers.some(({ isWhole }, index) => !isWhole && (isSound || index < answers.length - 1))) {
    problems.push("an answer that is not whole");
  }
  return problems;
}

function judgeAnswer(answer: HttpAnswer, ask: Ask | undefined, sent: FuzzCase, rules: Rules): string[] {
  const { status, headers, body } = answer;
  const text = body.toString();
  const problems: string[] = [];
  const isBare = body.length === 0;
  const secret = rules.secrets.find((path) => text.includes(path));
  if (secret !== undefined) problems.push("a path of this machine");
  if (headers.has("x-powered-by")) problems.push("x-powered-by");
  if (HTML.test(text) || headers.get("content-type")?.includes("html")) problems.push("HTML");
  const id = headers.get("x-request-id");
  if (id === "smuggled" || id === "trailer") problems.push("a request within a body was answered");
  if (sent.isSound && id !== undefined && ask?.id !== undefined && id !== ask.id && sent.kind !== "head") {
    problems.push(`the answer to ${id} in the place of ${ask.id}`);
  }
  const isNoBody = ask?.method === "HEAD" || status === 204 || status === 304;
  if (status >= 400 && !isNoBody) {
    if (!isBare) problems.push(...judgeError(answer, text, ask, rules));
    else if (sent.isSound || !BARE_STATUSES.has(status)) problems.push(`status ${status} without a body`);
  } else if (status === 200 && !isNoBody && answer.isWhole) {
    // Express itself answers OPTIONS when no handler does.
    const isOptions = ask?.method === "OPTIONS" && headers.has("allow");
    const wrong = isOptions ? undefined : wrongIn(answer, ask?.path ?? "", ask?.method);
    if (wrong !== undefined) problems.push(`wrong answer: ${wrong}`);
    if (isRefusable(sent)) problems.push("200 for a body that its schema refuses");
  } else if (![200, 204, 304].includes(status) && status < 400) problems.push(`status ${status}`);
  // One client sends all requests, and may not have the whole server.
  const isBusy = status === 429 || status === 503;
  if (ask?.isRight && status !== 200 && !isBusy)
    problems.push(`status ${status} for a right request: ${text.slice(0, 300)}`);
  return problems;
}

function judgeError(
  { status, headers, body }: HttpAnswer,
  text: string,
  ask: Ask | undefined,
  rules: Rules,
): readonly string[] {
  const problems: string[] = [];
  if (!headers.get("content-type")?.startsWith("application/json")) problems.push("an error that is no JSON");
  const code = codeOf(body);
  // Names of hosts are checked before the API, whose shape of errors is not known there.
  const isMessages = /^\/v1\/messages(\/|$)/.test(ask?.path ?? "") && code !== "forbidden_host";
  // Errors of Ollama's API have no codes.
  const isCodeless = code === undefined && routesAt(ask?.path ?? "").some(({ api }) => api === "ollama");
  const wrong = wrongUnder(isCodeless ? ollamaError : isMessages ? messagesError : errorAnswer, text);
  if (wrong !== undefined) problems.push(`no error of the API: ${wrong}`);
  if (body.length > MAX_ERROR_BYTES) problems.push(`an error of ${body.length} bytes`);
  // A name in the request may look like a stack.
  if (STACK.test(text)) problems.push(`a stack or path: ${text.slice(0, 300)}`);
  if (status >= 500 && code === undefined && !isCodeless) problems.push(`status ${status} without a code`);
  const isDocumented = isCodeless ? rules.codes.has(status) : rules.codes.get(status)?.has(code ?? "");
  if (!isDocumented) problems.push(`undocumented error ${status} ${code}`);
  if (ask?.path === "/livez" && status >= 500) problems.push(`/livez ${status}`);
  return problems;
}

function codeOf(body: Buffer): string | undefined {
  try {
    return (JSON.parse(body.toString()) as { error?: { code?: string } }).error?.code ?? undefined;
  } catch {
    return undefined;
  }
}

function sizeOf({ pieces }: FuzzCase): number {
  return pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
}
