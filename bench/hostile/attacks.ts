// Attacks of one client on the others. All end when their signal is aborted.

import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { ask, call, head, open, post, sendUnread, type Target } from "./hostile-http.ts";
import { STORED_ATTACKS } from "./stored-attacks.ts";

export interface Attack {
  readonly name: string;
  /** Runs one round; rounds are repeated until the time is over, which ends most of them. */
  readonly round: (target: Target, signal: AbortSignal) => Promise<void>;
  /** Removes what the rounds have stored, so that only a leak makes the server larger than before. */
  readonly after?: (target: Target) => Promise<void>;
}

const BODY_BYTES = 3_900_000;
const WIDE_MS = 120_000;
const CHAT = "/v1/chat/completions";
const TEXT = "/v1/completions";

/** Runs the given number concurrently. */
async function together(count: number, one: (index: number) => Promise<unknown>): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, index) => one(index)));
}

/** Opens connections, does not read them, and closes them after a while. */
async function unread(target: Target, signal: AbortSignal, count: number, message: string): Promise<void> {
  const sockets = await Promise.all(Array.from({ length: count }, () => sendUnread(target, message)));
  await sleep(2000, undefined, { signal }).catch(() => undefined);
  for (const socket of sockets) socket.destroy();
}

const filled = (part: string, length: number): string => part.repeat(Math.floor(length / part.length));
const user = (content: string): string => `{"role":"user","content":${content}}`;
const properties = (count: number, one: (index: number) => string): string =>
  `{${Array.from({ length: count }, (_, index) => one(index)).join(",")}}`;
const bound = (schema: string): string =>
  post(
    CHAT,
    `{"messages":[${user('"x"')}],"max_tokens":2,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":${schema}}}}`,
  );
const words = (count: number, prefix: string): string =>
  JSON.stringify(Array.from({ length: count }, (_, index) => `${prefix}${index}`));

/** Bodies that are invalid in very many places. */
const WRONG_BODIES: readonly string[] = [
  post(CHAT, `{"messages":[${user(`[${filled("0,", BODY_BYTES)}0]`)}]}`),
  post(CHAT, `{"messages":[${filled("0,", BODY_BYTES)}0]}`),
  post(CHAT, `{"messages":[${user('"x"')}],"logit_bias":${properties(250_000, (index) => `"${index}":"x"`)}}`),
  post(CHAT, `{"messages":[{"role":"assistant","tool_calls":[${filled("0,", BODY_BYTES)}0]}]}`),
  post("/detokenize", `{"tokens":[${filled("-1,", BODY_BYTES)}0]}`),
  post(
    CHAT,
    properties(250_000, (index) => `"k${index}":0`),
  ),
  post(CHAT, `{"messages":${"[".repeat(BODY_BYTES / 2)}${"]".repeat(BODY_BYTES / 2)}}`),
  post(TEXT, `{"prompt":[${filled("[0],", BODY_BYTES)}[0]]}`),
  post(CHAT, `{"${"k".repeat(BODY_BYTES)}":0}`),
];

const LONG_TEXTS: readonly string[] = [" ", "a", "\\n", "ab ", "é", "1", "a1 ", "🙂", "'s"].map((part) =>
  post("/tokenize", `{"prompt":"${filled(part, BODY_BYTES / (part === "🙂" ? 2 : 1))}"}`),
);

/** Grammars that compile slowly. */
const slowSchema = (index: number): string =>
  JSON.stringify({
    type: "object",
    properties: Object.fromEntries(
      Array.from({ length: 60 }, (_, property) => [
        `p${index}x${property}`,
        { type: "array", items: { type: "string", maxLength: 2000 }, maxItems: 200 },
      ]),
    ),
  });

const WIDE_SCHEMAS: readonly string[] = [
  bound(`{"oneOf":[{"enum":${words(80_000, "a")}},{"enum":${words(80_000, "b")}}]}`),
  bound(`{"oneOf":[${Array.from({ length: 300 }, (_, index) => `{"enum":${words(300, `${index}x`)}}`).join(",")}]}`),
  bound(`{"anyOf":[${Array.from({ length: 3000 }, (_, index) => `{"const":"c${index}"}`).join(",")}]}`),
  bound(`{"type":"string","pattern":"${filled("(a|b)*", 100_000)}"}`),
];

/** Grammars that are wrong, endless or huge, each in a small body. */
const WRONG_GRAMMARS: readonly string[] = [
  `root ::= []`,
  `root ::= "a"{2147483648}`,
  `root ::= root`,
  `root ::= "a" root`,
  `root ::= ((("a"*)*)*)*`,
  `root ::= ("a"?){1000}{1000}`,
  `root ::= [\\u0000-\\U0010ffff]{100000}`,
].map((grammar) =>
  post(CHAT, `{"messages":[${user('"x"')}],"max_tokens":2,"guided_grammar":${JSON.stringify(grammar)}}`),
);

/** Asks for a whole answer of many choices with log-probabilities, and reads all of it. */
const wideAnswer = (choices: number) => async (target: Target) => {
  const body = `{"messages":[${user('"x"')}],"n":${choices},"max_tokens":1000,"ignore_eos":true,"logprobs":true,"top_logprobs":20}`;
  await call(target, { path: CHAT, body }, AbortSignal.timeout(WIDE_MS));
};

export const ATTACKS: readonly Attack[] = [
  {
    name: "50 connections, 2,000 scrapes ahead on each, never read",
    round: (target, signal) => unread(target, signal, 50, head("GET", "/metrics").repeat(2000)),
  },
  {
    name: "50 connections, 2,000 liveness questions ahead on each, never read",
    round: (target, signal) => unread(target, signal, 50, head("GET", "/livez").repeat(2000)),
  },
  {
    name: "bodies of 4 MB that are wrong in a million places",
    round: (target, signal) =>
      together(4, async (first) => {
        for (let index = first; index < WRONG_BODIES.length && !signal.aborted; index += 4) {
          await ask(target, WRONG_BODIES[index] as string, signal);
        }
      }),
  },
  {
    name: "texts of 4 MB to tokenise",
    round: (target, signal) => together(LONG_TEXTS.length, (index) => ask(target, LONG_TEXTS[index] as string, signal)),
  },
  {
    name: "a prompt of 1 MB, eleven times",
    round: (target, signal) =>
      together(11, () => ask(target, post(TEXT, `{"prompt":"${filled("some words ", 1e6)}","max_tokens":4}`), signal)),
  },
  {
    name: "256 streams ahead on one connection, then gone",
    round: async (target, signal) => {
      const body = `{"prompt":"Once","max_tokens":800,"ignore_eos":true,"stream":true}`;
      const socket = await sendUnread(target, post(TEXT, body).repeat(256));
      await sleep(300, undefined, { signal }).catch(() => undefined);
      socket.destroy();
    },
  },
  {
    name: "large answers that are never read",
    round: (target, signal) =>
      unread(target, signal, 60, post("/detokenize", `{"tokens":[${filled("300,", 1_000_000)}300]}`)),
  },
  {
    name: "240 streams with log-probabilities that are never read",
    round: (target, signal) =>
      unread(
        target,
        signal,
        240,
        post(TEXT, `{"prompt":"Once","max_tokens":900,"ignore_eos":true,"stream":true,"logprobs":20}`),
      ),
  },
  {
    name: "150 bodies that stop at 3.9 of 4 MB",
    round: async (target, signal) => {
      const sockets = await Promise.all(Array.from({ length: 150 }, () => open(target)));
      const [begin, part] = [head("POST", TEXT, 4_000_000), Buffer.alloc(65_536, " ")];
      for (const socket of sockets) socket.write(begin);
      for (let sent = 0; sent < BODY_BYTES && !signal.aborted; sent += part.length) {
        for (const socket of sockets) if (!socket.destroyed) socket.write(part);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await sleep(2000, undefined, { signal }).catch(() => undefined);
      for (const socket of sockets) socket.destroy();
    },
  },
  {
    name: "12 slow grammars whose clients leave",
    round: (target, signal) =>
      together(12, (index) =>
        ask(
          target,
          bound(slowSchema(index + Math.floor(performance.now()) * 12)),
          AbortSignal.any([signal, AbortSignal.timeout(1500)]),
        ),
      ),
  },
  {
    name: "schemas of very many alternatives",
    round: (target, signal) =>
      together(WIDE_SCHEMAS.length, (index) => ask(target, WIDE_SCHEMAS[index] as string, signal)),
  },
  {
    name: "128 choices without end, and 100 requests that want to go first",
    round: async (target, signal) => {
      const leave = AbortSignal.any([signal, AbortSignal.timeout(8000)]);
      setMaxListeners(Infinity, leave);
      const endless = `"prompt":"Once","max_tokens":1000,"ignore_eos":true`;
      await Promise.all([
        ask(target, post(TEXT, `{${endless},"n":128}`), leave),
        together(100, () => ask(target, post(TEXT, `{${endless},"read_me":{"priority":1000000}}`), leave)),
        together(40, () => ask(target, post(TEXT, `{${endless}}`), leave)),
      ]);
    },
  },
  { name: "a whole answer of 128 choices with 20 log-probabilities a token", round: wideAnswer(128) },
  { name: "a whole answer of 32 choices with 20 log-probabilities a token", round: wideAnswer(32) },
  {
    name: "grammars that are wrong, endless or huge",
    round: (target, signal) =>
      together(WRONG_GRAMMARS.length, (index) => ask(target, WRONG_GRAMMARS[index] as string, signal)),
  },
  ...STORED_ATTACKS,
];
