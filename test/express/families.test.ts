// GGUF files of families, with the tokenizers that their files have, served over HTTP: answers have the tokens of the
// Hugging Face checkpoint.

import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { openModel } from "@readme-moe/model";
import express from "express";
import { expect, test } from "vitest";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import { TOKEN_TYPE } from "../../packages/model/src/text/gguf-tokenizer.ts";
import { complete } from "../support/complete.ts";
import { fixture } from "../support/fixtures.ts";
import { type Metadata, writeModelGguf } from "../support/gguf/convert-model.ts";
import { greedyTokens } from "../support/greedy.ts";
import { postJson } from "../support/post-json.ts";
import { runningModel } from "../support/running-model.ts";
import { listen } from "../support/served-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Size of the fixtures' vocabularies. */
const VOCAB_SIZE = 128;
const TEMPLATE =
  "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}";
const MESSAGES = [
  { role: "system", content: "Answer briefly." },
  { role: "user", content: "What's  in file_2 (3417)?" },
];

interface FileTokenizer {
  readonly metadata: Metadata;
  /** Ids of a text between control tokens. */
  readonly idsOf: (text: string) => readonly number[];
}

function metadataOf(model: string, pre: string, tokens: readonly string[], types: readonly number[]): Metadata {
  return new Map([
    ["tokenizer.ggml.model", { type: "string", value: model }],
    ["tokenizer.ggml.pre", { type: "string", value: pre }],
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "array", of: "int32", value: Int32Array.from(types) }],
    ["tokenizer.ggml.scores", { type: "array", of: "float32", value: new Float32Array(tokens.length) }],
    ["tokenizer.ggml.merges", { type: "array", of: "string", value: [] }],
    ["tokenizer.ggml.bos_token_id", { type: "uint32", value: 1 }],
    ["tokenizer.ggml.eos_token_id", { type: "uint32", value: 2 }],
    ["tokenizer.chat_template", { type: "string", value: TEMPLATE }],
  ]);
}

/** Byte-level BPE without merges: ASCII characters are their own ids, except the first three. */
function byteLevel(pre: string): FileTokenizer {
  const tokens = ["<pad>", "<s>", "</s>", ...CHARACTER_OF_BYTE.slice(3, VOCAB_SIZE)];
  const types = tokens.map((_, id) => (id < 3 ? TOKEN_TYPE.control : TOKEN_TYPE.normal));
  return {
    metadata: metadataOf("gpt2", pre, tokens, types),
    idsOf: (text) => Array.from(text, (character) => character.charCodeAt(0)),
  };
}

/** SentencePiece BPE without merges; the line feed is a byte. */
function sentencePiece(): FileTokenizer {
  const characters = Array.from({ length: 94 }, (_, at) => String.fromCharCode(33 + at));
  const known = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", ...characters];
  const tokens = [...known, ...Array.from({ length: VOCAB_SIZE - known.length }, (_, at) => `[PAD${at}]`)];
  const { unknown, control, byte, normal, unused } = TOKEN_TYPE;
  const types = tokens.map((_, id) => [unknown, control, control, byte][id] ?? (id < known.length ? normal : unused));
  return {
    metadata: metadataOf("llama", "default", tokens, types),
    idsOf: (text) =>
      Array.from(`▁${text.replaceAll(" ", "▁")}`, (character) =>
        known.indexOf(character === "\n" ? "<0x0A>" : character),
      ),
  };
}

test.each([
  ["olmo2", byteLevel("dbrx")],
  ["granite", byteLevel("refact")],
  ["smollm3", byteLevel("smaug-bpe")],
  ["phi3", sentencePiece()],
  ["phi3-longrope", byteLevel("gpt-4o")],
  ["qwen3", byteLevel("qwen2")],
  ["llama3-rope-scaling", byteLevel("llama-bpe")],
] as const)("a GGUF file of %s answers a chat with the checkpoint's tokens", async (family, { metadata, idsOf }) => {
  const folder = await temporaryFolder();
  const path = join(folder, `${family}.gguf`);
  const model = await openModel(fixture(`families/${family}`));
  await writeModelGguf(model, path, "F32", metadata);
  await model.close();
  const texts = [...MESSAGES.map(({ role, content }) => `${role}\n${content}`), "assistant\n"];
  const ids = texts.flatMap((text, index) => [1, ...idsOf(text), ...(index < MESSAGES.length ? [2] : [])]);
  await using checkpoint = await runningModel(fixture(`families/${family}`), undefined, "fp32", folder);
  const expected = await greedyTokens(checkpoint, ids, 12);

  const engine = await ReadMeEngine.open(path, {
    precision: "fp32",
    isolation: "thread",
    threads: 1,
    cacheFolder: folder,
  });
  const params = { temperature: 0, maxTokens: 12, ignoreEos: true };
  const answer = await complete(engine, { prompt: { messages: MESSAGES }, params });
  expect(answer.ids).toEqual(expected);
  const app = express();
  app.use(readMe.api({ engine }));
  await using server = await listen(app);
  const asked = { messages: MESSAGES, max_tokens: 12, temperature: 0, ignore_eos: true };
  const { status, body } = await postJson(`${server.url}/v1/chat/completions`, asked);
  expect(status).toBe(200);
  expect(body).toMatchObject({
    choices: [{ message: { role: "assistant", content: answer.text } }],
    usage: { prompt_tokens: ids.length, completion_tokens: 12 },
  });
  await engine.dispose();
});
