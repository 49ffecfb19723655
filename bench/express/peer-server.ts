// transformers.js in an Express handler, as one writes it: the same model, exported for it, and the same answers.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { env, pipeline } from "@huggingface/transformers";
import { exportTransformersJs, openModel, resolveCacheFolder } from "@readme-moe/model";
import express from "express";
import { serveBench } from "./answer-calls.ts";
import type { ServerSetup } from "./server-process.ts";

const { path } = JSON.parse(process.argv[2] ?? "{}") as ServerSetup;
const folder = join(resolveCacheFolder(), "bench-express", path.replaceAll(/[^\w.-]/g, "_"));
if (!existsSync(join(folder, "onnx"))) {
  const model = await openModel(path);
  await exportTransformersJs(model, folder, { dtypes: ["fp32"] });
  await model.close();
}
env.allowRemoteModels = false;
const generate = await pipeline("text-generation", folder, { dtype: "fp32" });

const app = express().use(express.json());
app.get("/health", (_, response) => void response.json({ status: "ok" }));
app.post("/v1/completions", async (request, response) => {
  const { prompt, max_tokens: tokens } = request.body as { readonly prompt: string; readonly max_tokens: number };
  const options = { max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false, return_full_text: false };
  const [answer] = await generate(prompt, options);
  const text = typeof answer?.generated_text === "string" ? answer.generated_text : "";
  response.json({ id: "", choices: [{ text, finish_reason: "length" }], usage: { completion_tokens: tokens } });
});
serveBench(app);
