// Typical Express handler around transformers.js, with the same model exported for it.

import { env, pipeline, TextStreamer } from "@huggingface/transformers";
import express from "express";
import { serveBench } from "./answer-calls.ts";
import { type CompletionRequest, completionStream } from "./completion-stream.ts";
import type { ServerSetup } from "./server-process.ts";

const { peer } = JSON.parse(process.argv[2] ?? "{}") as ServerSetup;
if (!peer) throw new TypeError("Expected `peer` to name the exported model, got nothing");

env.allowRemoteModels = false;
const generate = await pipeline("text-generation", peer.model, {
  dtype: peer.variant === "q8" ? "q8" : "fp32",
  session_options: { intraOpNumThreads: peer.threads, interOpNumThreads: 1 },
});

const app = express().use(express.json());
app.get("/health", (_, response) => void response.json({ status: "ok" }));
app.post("/v1/completions", async (request, response) => {
  const { prompt, max_tokens: tokens, stream = false } = request.body as CompletionRequest;
  const answer = completionStream(response, stream);
  const streamer = new TextStreamer(generate.tokenizer, {
    skip_prompt: true,
    token_callback_function: (ids) => answer.token(generate.tokenizer.decode(ids.map(Number))),
  });
  // Logs would go to standard output otherwise.
  streamer.callback_function = () => undefined;
  await generate(prompt, { max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false, streamer });
  answer.end(tokens);
});
serveBench(app);
