// Replaces a dense model by its refactored form while it answers, without interrupting any answer.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe, ServedModels } from "@readme-moe/express";
import express from "express";
import OpenAI from "openai";

const [experts = "models/pocket-experts", dense = "models/pocket"] = process.argv.slice(2);
const PROMPTS = ["The ship was", "In this paper, we", "import os\n"];

const models = new ServedModels({ pocket: await ReadMeEngine.open(dense) });
models.events.on("model:swapped", (event) => console.log("model:swapped", event));
const refactored = await ReadMeEngine.open(experts);
const server = express().use(readMe({ models })).listen(0, "127.0.0.1");
await once(server, "listening");
const baseURL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
const openai = new OpenAI({ baseURL, apiKey: "none" });

const before = await Promise.all(PROMPTS.map((prompt) => begin(prompt, 120)));
console.log(`${before.length} answers are streaming`);
const swapped = models.set("pocket", refactored);
const after = await Promise.all(PROMPTS.map((prompt) => begin(prompt, 50)));

for (const text of await Promise.all(before.map(finish))) console.log("begun before the swap:", text);
for (const text of await Promise.all(after.map(finish))) console.log("begun after the swap: ", text);
await swapped;
console.log("the dense model's memory is free again");

await models.drain();
server.close();

/** Begins an answer. @returns its stream, after the first token */
function begin(prompt: string, max_tokens: number) {
  const options = { temperature: 0, ignore_eos: true, read_me: { include: ["routes"] } };
  const stream_options = { include_usage: true };
  return openai.completions.create({ ...options, model: "pocket", prompt, max_tokens, stream: true, stream_options });
}

async function finish(stream: Awaited<ReturnType<typeof begin>>): Promise<string> {
  let [text, tokens, names] = ["", 0, [] as readonly string[]];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.text ?? "";
    tokens = chunk.usage?.completion_tokens ?? tokens;
    names = (chunk as { read_me?: { experts?: readonly string[] } }).read_me?.experts ?? names;
  }
  const writer = names.length > 1 ? `${names.length} experts` : "the dense model";
  return `${tokens} tokens by ${writer}: ${JSON.stringify(text.slice(0, 40))} …`;
}
