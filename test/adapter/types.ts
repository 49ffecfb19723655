// Calls that must type-check; nothing here runs. The types of both generations of hosts are kept.

import * as huggingface from "@huggingface/transformers";
import { readMeModel, register } from "@readme-moe/adapter";
import { pipeline as huggingfacePipeline, TextStreamer } from "@readme-moe/adapter/huggingface";
import { pipeline as xenovaPipeline } from "@readme-moe/adapter/xenova";
import * as xenova from "@xenova/transformers";

export async function newer(): Promise<string> {
  const generator = await huggingfacePipeline("text-generation", "organisation/model", { dtype: "q8" });
  const streamer = new TextStreamer(generator.tokenizer, { skip_prompt: true });
  const [one] = await generator("Once upon a time", { max_new_tokens: 8, streamer });
  const [chat] = await generator([{ role: "user", content: "Hello" }], { max_new_tokens: 8 });
  const answer = chat?.generated_text.at(-1)?.content;
  await generator.dispose();
  return `${one?.generated_text} ${JSON.stringify(answer)}`;
}

export async function newerWithOptions(): Promise<number> {
  const generator = await huggingfacePipeline("text-generation", "model.gguf", {
    engine: "readme-moe",
    engineOptions: { precision: "int8", maxNumSeqs: 16 },
  });
  const route = await readMeModel(generator.model)?.route("int main(");
  return route?.experts.length ?? 0;
}

export async function older(): Promise<string> {
  const generator = await xenovaPipeline("text-generation", "organisation/model", { quantized: false });
  const output = await generator("Once upon a time", { max_new_tokens: 8 });
  return JSON.stringify(output);
}

export async function otherTasks(): Promise<readonly number[]> {
  const embed = await huggingfacePipeline("feature-extraction", "organisation/model");
  const { dims } = await embed("Hello", { pooling: "mean" });
  return dims;
}

export function registered(): readonly (() => void)[] {
  return [register(huggingface), register(xenova, { engineOptions: { isolation: "thread" } })];
}
