// Answers that a seed or a temperature of 0 decides: asked again, alone, they have to be the same to the last bit.

import type { FuzzCase } from "./fuzz-case.ts";
import { readAnswers } from "./http-answers.ts";

export interface KeptAnswer {
  readonly of: FuzzCase;
  readonly choices: string;
}

/** The choices of an answer that a seed or a temperature of 0 decides. `undefined` for streams and for all other cases. */
export function decidedAnswer(sent: FuzzCase, received: Buffer): string | undefined {
  const { kind, asks, pieces } = sent;
  const [ask, piece] = [asks[0], pieces[0]];
  if (kind !== "valid" || !ask?.path.includes("completions") || piece === undefined) return undefined;
  const body = piece.bytes.subarray(piece.bytes.indexOf("\r\n\r\n") + 4).toString();
  const { seed, temperature, stream } = JSON.parse(body) as Readonly<Record<string, unknown>>;
  const isDecided = typeof seed === "number" || temperature === 0;
  return isDecided && stream !== true ? choicesOf(received) : undefined;
}

/** The choices of a whole answer, without the ids of calls, which are new each time. */
function choicesOf(received: Buffer): string | undefined {
  const [answer] = readAnswers(received, ["POST"], true).answers;
  if (answer?.status !== 200) return undefined;
  const { choices } = JSON.parse(answer.body.toString()) as { readonly choices: unknown };
  return JSON.stringify(choices, (key, value: unknown) => (key === "id" ? undefined : value));
}
