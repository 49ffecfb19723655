// Clients of all kinds, valid and invalid, that each send one request after the other until they are stopped.

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { post, type Answer } from "./client.ts";
import { promptOf } from "./load.ts";

interface Outcome {
  /** Kind of client, and outcome of its request. */
  readonly text: string;
  readonly isExpected: boolean;
}

export interface Traffic {
  readonly outcomes: readonly Outcome[];
  /** Returns the number of requests that took far longer than any should, ended or not. */
  readonly numStuck: () => number;
  readonly ended: Promise<void>;
}

interface Kind {
  readonly clients: number;
  readonly ask: (url: string, index: number, random: () => number) => Promise<Answer>;
  readonly expects: (answer: Answer) => boolean;
}

const STUCK_MS = 90_000;
const REFUSED_PAUSE_MS = 100;
/** Statuses of a full server, or of one whose engine was just killed. */
const UNAVAILABLE = new Set(["server_overloaded", "engine_failed", "model_loading", "model_failed"]);
const BAD = ['{"prompt": ', '{"prompt": 7}', '{"prompt": "a", "colour": 1}', '{"prompt": "a", "temperature": 9}', "[]"];

const isComplete = ({ status, isWhole, errorCode }: Answer): boolean =>
  status === 200 && isWhole && errorCode === undefined;
/** Whether the server rejected the request, or failed within a stream. */
const isUnavailable = ({ status, errorCode }: Answer): boolean =>
  (status === 503 || status === 200) && UNAVAILABLE.has(errorCode ?? "");

function body(index: number, random: () => number, more: object = {}): object {
  return { prompt: promptOf(index), max_tokens: 8 + Math.floor(random() * 40), ignore_eos: true, ...more };
}

const KINDS: Readonly<Record<string, Kind>> = {
  whole: {
    clients: 3,
    ask: (url, index, random) => post(`${url}/v1/completions`, body(index, random, { n: 1 + (index % 2) })),
    expects: (answer) => isComplete(answer) || isUnavailable(answer),
  },
  stream: {
    clients: 3,
    ask: (url, index, random) => post(`${url}/v1/completions`, body(index, random, { stream: true })),
    expects: (answer) => isComplete(answer) || isUnavailable(answer),
  },
  cancelled: {
    clients: 4,
    ask: (url, index, random) =>
      post(`${url}/v1/completions`, body(index, random, { stream: index % 2 === 0 }), {
        signal: AbortSignal.timeout(1 + Math.floor(random() * 300)),
      }),
    expects: (answer) => answer.status === 0 || isComplete(answer) || isUnavailable(answer),
  },
  bad: {
    clients: 1,
    ask: async (url, index) => {
      await sleep(20);
      return post(`${url}/v1/completions`, BAD[index % BAD.length] as string);
    },
    expects: ({ status, errorCode }) => status === 400 && errorCode !== undefined,
  },
  slow: {
    clients: 2,
    ask: (url, index, random) =>
      post(`${url}/v1/completions`, body(index, random, { stream: true }), { slownessMs: 50 }),
    expects: (answer) => isComplete(answer) || isUnavailable(answer),
  },
};

/** @param signal - stops the clients; running requests are awaited */
export function mixedTraffic(url: string, signal: AbortSignal): Traffic {
  const outcomes: Outcome[] = [];
  const underway = new Set<number>();
  let numLate = 0;
  const client = async (name: string, { ask, expects }: Kind, seed: number): Promise<void> => {
    const random = seededRandom(seed);
    for (let index = seed * 1_000_000; !signal.aborted; index++) {
      const startMs = performance.now();
      underway.add(startMs);
      const answer = await ask(url, index, random);
      underway.delete(startMs);
      if (performance.now() - startMs > STUCK_MS) numLate++;
      outcomes.push({ text: `${name} ${fateOf(answer)}`, isExpected: expects(answer) });
      if (answer.status === 503) await sleep(REFUSED_PAUSE_MS);
    }
  };
  const clients = Object.entries(KINDS).flatMap(([name, kind], number) =>
    Array.from({ length: kind.clients }, (_, one) => client(name, kind, 100 * (number + 1) + one)),
  );
  return {
    outcomes,
    numStuck: () => numLate + [...underway].filter((startMs) => performance.now() - startMs > STUCK_MS).length,
    ended: Promise.all(clients).then(() => undefined),
  };
}

function fateOf({ status, isWhole, errorCode, tail }: Answer): string {
  if (status === 0) return "left";
  if (errorCode !== undefined) return `${status} ${errorCode}`;
  return isWhole ? `${status}` : `${status} cut after ${JSON.stringify(tail)}`;
}
