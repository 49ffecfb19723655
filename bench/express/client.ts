// Sends one request over HTTP, and measures its times at the client.

import { once } from "node:events";
import { Agent, request, type IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

export interface Answer {
  /** 0 without a status: client or server ended the connection. */
  readonly status: number;
  readonly id: string;
  readonly completionTokens: number;
  readonly finishReason: string;
  /** Time from the request to the first byte of the body. */
  readonly firstMs: number;
  readonly totalMs: number;
  /** Whether the answer is a complete stream with a finish reason, or a JSON body. */
  readonly isWhole: boolean;
  /** Error code in the body or at the end of the stream. */
  readonly errorCode: string | undefined;
  /** Last characters of the body, for diagnosis. */
  readonly tail: string;
}

export interface Asking {
  readonly signal?: AbortSignal;
  /** Delay before each piece of the answer is read. */
  readonly slownessMs?: number;
}

const TAIL_CHARS = 100;

// One connection for each running request, reused by later ones.
const agent = new Agent({ keepAlive: true, maxSockets: Infinity });

/** Sends a text as it is, or a value as JSON. Never rejects. */
export async function post(url: string, body: object | string, { signal, slownessMs }: Asking = {}): Promise<Answer> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
  const startMs = performance.now();
  let [firstMs, received, status, isStream] = [NaN, "", 0, false];
  try {
    const sent = request(url, { method: "POST", agent, headers, ...(signal ? { signal } : {}) });
    // Errors after the answer are ignored, too.
    sent.on("error", () => undefined);
    sent.end(text);
    const [response] = (await once(sent, "response")) as [IncomingMessage];
    status = response.statusCode ?? 0;
    isStream = response.headers["content-type"]?.startsWith("text/event-stream") ?? false;
    response.setEncoding("utf8");
    for await (const piece of response) {
      if (Number.isNaN(firstMs)) firstMs = performance.now() - startMs;
      if (slownessMs !== undefined) await sleep(slownessMs);
      received += piece as string;
    }
  } catch {
    status = 0;
  }
  return { status, firstMs, totalMs: performance.now() - startMs, ...contentOf(received, isStream) };
}

export async function healthMs(url: string): Promise<number> {
  const startMs = performance.now();
  const asked = request(`${url}/health`, { agent });
  asked.end();
  const [response] = (await once(asked, "response")) as [IncomingMessage];
  for await (const _ of response);
  if (response.statusCode !== 200) throw new Error(`Expected a healthy server, got ${response.statusCode}`);
  return performance.now() - startMs;
}

interface Content {
  readonly id?: string;
  readonly choices?: readonly { readonly finish_reason?: string | null }[];
  readonly usage?: { readonly completion_tokens: number } | null;
  readonly error?: { readonly code: string | null; readonly type: string };
}

function contentOf(
  text: string,
  isStream: boolean,
): Pick<Answer, "id" | "completionTokens" | "finishReason" | "isWhole" | "errorCode" | "tail"> {
  const payloads = isStream ? payloadsOf(text) : [text];
  const contents = payloads.filter((payload) => payload !== "[DONE]").flatMap(parse);
  const error = contents.find((content) => content.error)?.error;
  const finishReason = contents.flatMap(({ choices = [] }) => choices[0]?.finish_reason ?? [])[0] ?? "";
  return {
    id: contents[0]?.id ?? "",
    completionTokens: contents.find(({ usage }) => usage)?.usage?.completion_tokens ?? 0,
    finishReason,
    isWhole: isStream ? payloads.at(-1) === "[DONE]" && finishReason !== "" : contents.length > 0,
    errorCode: error && (error.code ?? error.type),
    tail: text.slice(-TAIL_CHARS),
  };
}

/** Returns the `data` of complete events. Comments may come at any time, also before the first event. */
function payloadsOf(text: string): readonly string[] {
  const events = text.split("\n\n").slice(0, -1);
  // An event of a fleet's stream has an id before its data.
  return events.flatMap((event) => /^data: (.*)$/m.exec(event)?.[1] ?? []);
}

function parse(text: string): readonly Content[] {
  try {
    return [JSON.parse(text) as Content];
  } catch {
    return [];
  }
}
