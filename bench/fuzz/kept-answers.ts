// Keeps deterministic answers, with a seed or a temperature of 0: repeated alone, they must be the same to the last
// bit.

import type { FuzzCase } from "./fuzz-case.ts";
import { readAnswers } from "./http-answers.ts";

export interface KeptAnswer {
  readonly of: FuzzCase;
  readonly choices: string;
}

/** Returns the choices of a deterministic answer; `undefined` for streams and other answers. */
export function decidedAnswer(sent: FuzzCase, received: Buffer): string | undefined {
  const { kind, asks, pieces } = sent;
  const [ask, piece] = [asks[0], pieces[0]];
  if (kind !== "valid" || !ask?.path.includes("completions") || piece === undefined) return undefined;
  const body = piece.bytes.subarray(piece.bytes.indexOf("\r\n\r\n") + 4).toString();
  const { seed, temperature, stream } = JSON.parse(body) as Readonly<Record<string, unknown>>;
  const isDecided = typeof seed === "number" || temperature === 0;
  return isDecided && stream !== true ? choicesOf(received) : undefined;
}

/** Returns the choices of an answer without the ids of calls, which are new each time. */
function choicesOf(received: Buffer): string | undefined {
  const [answer] = readAnswers(received, ["POST"], true).answers;
  if (answer?.status !== 200) return undefined;
  const { choices } = JSON.parse(answer.body.toString()) as { readonly choices: unknown };
  return JSON.stringify(choices, (key, value: unknown) => (key === "id" ? undefined : value));
}
