// transformers.js in an Express handler, as one writes it: the same model, exported for it, and the same answers.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { env, pipeline, TextStreamer } from "@huggingface/transformers";
import { exportTransformersJs, openModel, resolveCacheFolder } from "@readme-moe/model";
import express from "express";
import { serveBench } from "./answer-calls.ts";
import { type CompletionRequest, completionStream } from "./completion-stream.ts";
import type { ServerSetup } from "./server-process.ts";

const { path, peer } = JSON.parse(process.argv[2] ?? "{}") as ServerSetup;

async function exported(): Promise<string> {
  const folder = join(resolveCacheFolder(), "bench-express", path.replaceAll(/[^\w.-]/g, "_"));
  if (existsSync(join(folder, "onnx"))) return folder;
  const model = await openModel(path);
  await exportTransformersJs(model, folder, { dtypes: ["fp32"] });
  await model.close();
  return folder;
}

env.allowRemoteModels = false;
const session = peer && { intraOpNumThreads: peer.threads, interOpNumThreads: 1 };
const generate = await pipeline("text-generation", peer?.model ?? (await exported()), {
  dtype: peer?.variant === "q8" ? "q8" : "fp32",
  ...(session ? { session_options: session } : {}),
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
  // What it would write to standard output otherwise.
  streamer.callback_function = () => undefined;
  await generate(prompt, { max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false, streamer });
  answer.end(tokens);
});
serveBench(app);
