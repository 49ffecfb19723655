// Parses the answers of a connection without Node's parser, which tolerates invalid HTTP.

export interface HttpAnswer {
  readonly status: number;
  /** Headers by lower-case name; repeated ones are joined by commas. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
  /** Whether the whole body was received. */
  readonly isWhole: boolean;
}

export interface ReadAnswers {
  readonly answers: readonly HttpAnswer[];
  /** Description of the first part that is not valid HTTP; `undefined` without one. */
  readonly problem: string | undefined;
}

const STATUS_LINE = /^HTTP\/1\.1 (\d{3}) [\x20-\x7e]*$/;
const HEADER_LINE = /^([!#$%&'*+.^_`|~\w-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*$/;

/**
 * @param methods - of the requests in order: an answer to HEAD has no body
 * @param isEnd - the server has ended the connection
 */
export function readAnswers(bytes: Buffer, methods: readonly string[], isEnd: boolean): ReadAnswers {
  const answers: HttpAnswer[] = [];
  for (let start = 0; start < bytes.length;) {
    const end = bytes.indexOf("\r\n\r\n", start);
    if (end < 0) return { answers, problem: isEnd ? "a head that does not end" : undefined };
    const [first = "", ...lines] = bytes.toString("latin1", start, end).split("\r\n");
    const status = Number(STATUS_LINE.exec(first)?.[1]);
    if (Number.isNaN(status)) return { answers, problem: `no status line: ${JSON.stringify(first.slice(0, 80))}` };
    const headers = new Map<string, string>();
    for (const line of lines) {
      const [, name, value = ""] = HEADER_LINE.exec(line) ?? [];
      if (name === undefined) return { answers, problem: `no header: ${JSON.stringify(line.slice(0, 80))}` };
      const before = headers.get(name.toLowerCase());
      headers.set(name.toLowerCase(), before === undefined ? value : `${before}, ${value}`);
    }
    start = end + 4;
    // 100 Continue is not the answer.
    if (status >= 100 && status < 200) continue;
    const hasBody = methods[answers.length] !== "HEAD" && status !== 204 && status !== 304;
    const { body, next, isWhole, problem } = hasBody ? bodyAt(bytes, start, headers, isEnd) : nothingAt(start);
    answers.push({ status, headers, body, isWhole });
    if (problem !== undefined || !isWhole) return { answers, problem };
    start = next;
  }
  return { answers, problem: undefined };
}

interface BodyAt {
  readonly body: Buffer;
  readonly next: number;
  readonly isWhole: boolean;
  readonly problem?: string;
}

const nothingAt = (start: number): BodyAt => ({ body: Buffer.alloc(0), next: start, isWhole: true });

function bodyAt(bytes: Buffer, start: number, headers: ReadonlyMap<string, string>, isEnd: boolean): BodyAt {
  if (headers.get("transfer-encoding") === "chunked") return chunksAt(bytes, start);
  const said = headers.get("content-length");
  if (said === undefined) return { body: bytes.subarray(start), next: bytes.length, isWhole: isEnd };
  if (!/^\d+$/.test(said)) return { ...nothingAt(start), problem: `content-length ${said}` };
  const next = start + Number(said);
  return { body: bytes.subarray(start, next), next, isWhole: next <= bytes.length };
}

function chunksAt(bytes: Buffer, start: number): BodyAt {
  const parts: Buffer[] = [];
  for (let at = start; ;) {
    const line = bytes.indexOf("\r\n", at);
    if (line < 0) return { body: Buffer.concat(parts), next: at, isWhole: false };
    const text = bytes.toString("latin1", at, line);
    if (!/^[0-9a-f]+$/i.test(text))
      return { body: Buffer.concat(parts), next: at, isWhole: false, problem: `chunk ${text.slice(0, 40)}` };
    const size = Number.parseInt(text, 16);
    const next = line + 2 + size + 2;
    if (next > bytes.length) return { body: Buffer.concat(parts), next: at, isWhole: false };
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    if (bytes.toString("latin1", next - 2, next) !== "\r\n") {
      return { body: Buffer.concat(parts), next: at, isWhole: false, problem: "a chunk without an end" };
    }
    if (size === 0) return { body: Buffer.concat(parts), next, isWhole: true };
    at = next;
  }
}
