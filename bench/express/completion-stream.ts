// Output of a typical handler around a library: an answer token by token, or whole.

import type { Response } from "express";

export interface CompletionRequest {
  readonly prompt: string;
  readonly max_tokens: number;
  readonly stream?: boolean;
}

export interface CompletionStream {
  token(text: string): void;
  end(completionTokens: number): void;
}

/** Sends server-sent events if requested, one body at the end otherwise. */
export function completionStream(response: Response, isStream: boolean): CompletionStream {
  let whole = "";
  const send = (payload: object): void => void response.write(`data: ${JSON.stringify({ id: "", ...payload })}\n\n`);
  if (isStream) response.setHeader("content-type", "text/event-stream");
  return {
    token(text) {
      if (isStream) send({ choices: [{ text, finish_reason: null }] });
      else whole += text;
    },
    end(completionTokens) {
      const choices = [{ text: whole, finish_reason: "length" }];
      const usage = { completion_tokens: completionTokens };
      if (isStream) {
        send({ choices, usage });
        response.end("data: [DONE]\n\n");
      } else response.json({ id: "", choices, usage });
    },
  };
}
