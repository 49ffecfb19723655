// Calls as users of transformers.js make them: through the host with ONNX files of its own, and through the adapter
// with the same weights. Shapes, fields, texts and errors must be the same. `PARITY_MODEL=<folder>` names another model
// than the pocket model.

import { resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { HOSTS, findAnywhere, hostGenerator, ourGenerator, writeTwins, type Generator } from "../support/hosts.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const ONE = "The ship was";
const OTHER = "import os\n\ndef main(args):\n    ";
const CHAT = [{ role: "user", content: "What is the sea?" }];
const SECOND_CHAT = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "And the sky?" },
];

/** Texts and options of calls, for both hosts. */
const CALLS: Readonly<Record<string, readonly [texts: unknown, options?: object]>> = {
  "a text": [ONE, { max_new_tokens: 12 }],
  "no options": [ONE],
  "the new text alone": [ONE, { max_new_tokens: 12, return_full_text: false }],
  "a list of one": [[ONE], { max_new_tokens: 12 }],
  "texts of one length": [[ONE, ONE], { max_new_tokens: 12 }],
  "a chat": [CHAT, { max_new_tokens: 12 }],
  "a list of chats of one": [[CHAT], { max_new_tokens: 12 }],
  "a system message": [SECOND_CHAT, { max_new_tokens: 8 }],
  "special tokens": [ONE, { max_new_tokens: 8, add_special_tokens: true }],
  "max_length below the prompt": [ONE, { max_length: 2 }],
  "max_length and no max_new_tokens": [ONE, { max_length: 9, max_new_tokens: null }],
  "max_new_tokens over max_length": [ONE, { max_length: 3, max_new_tokens: 6 }],
  "one token": [ONE, { max_new_tokens: 1 }],
  "another end token": [ONE, { max_new_tokens: 24, eos_token_id: 13 }],
  "several end tokens": [OTHER, { max_new_tokens: 24, eos_token_id: [13, 199, 202] }],
  "a repetition penalty": [ONE, { max_new_tokens: 16, repetition_penalty: 1.3 }],
  "no repeated n-grams": [ONE, { max_new_tokens: 24, no_repeat_ngram_size: 2 }],
  "n-grams and a penalty": [ONE, { max_new_tokens: 16, no_repeat_ngram_size: 3, repetition_penalty: 1.2 }],
  "bad words": [ONE, { max_new_tokens: 12, bad_words_ids: [[262], [13]] }],
  "a least number of tokens": [ONE, { max_new_tokens: 12, min_new_tokens: 6, eos_token_id: 13 }],
  "a least length": [ONE, { max_new_tokens: 12, min_length: 8, eos_token_id: 13 }],
  "an end token that is forced": [ONE, { max_new_tokens: 5, forced_eos_token_id: 0 }],
  "temperature without sampling": [ONE, { max_new_tokens: 8, temperature: 0.3, top_k: 5 }],
  "one of one sequences": [ONE, { max_new_tokens: 8, num_return_sequences: 1 }],
  "unknown options": [ONE, { max_new_tokens: 4, colour: "green" }],
  "several sequences without sampling": [ONE, { num_return_sequences: 2 }],
  "no text": [7, { max_new_tokens: 4 }],
  "an empty list": [[], { max_new_tokens: 4 }],
  "a message without content": [[{ role: "user" }], { max_new_tokens: 4 }],
};

/** Calls of the newer generation only: the older one attends to padding and has fewer options. */
const NEWER_CALLS: typeof CALLS = {
  "texts of unlike length": [[ONE, OTHER], { max_new_tokens: 12 }],
  "the new texts alone": [[OTHER, ONE], { max_new_tokens: 12, return_full_text: false }],
  chats: [[CHAT, SECOND_CHAT], { max_new_tokens: 12 }],
  "suppressed tokens": [ONE, { max_new_tokens: 8, suppress_tokens: [262, 13] }],
  "tokens suppressed at the beginning": [ONE, { max_new_tokens: 8, begin_suppress_tokens: [262] }],
  "a template of the caller's": [CHAT, { max_new_tokens: 8, chat_template: "{{ messages[0].content }}!" }],
  "options of the tokenizer": [ONE, { max_new_tokens: 8, tokenizer_encode_kwargs: { add_special_tokens: true } }],
  "temperature 0 with sampling": [ONE, { max_new_tokens: 8, do_sample: true, temperature: 0 }],
};

let folders: { readonly dense: string; readonly exported: string };
beforeAll(async () => {
  findAnywhere();
  const model = process.env["PARITY_MODEL"];
  folders = await writeTwins(await persistentFolder(), model === undefined ? undefined : resolve(model));
});

async function outcome(generate: Generator, [texts, options]: readonly [unknown, object?]): Promise<unknown> {
  try {
    return await generate(structuredClone(texts), options);
  } catch (error) {
    return { error: (error as Error).message };
  }
}

describe.each(Object.keys(HOSTS) as (keyof typeof HOSTS)[])("%s", (name) => {
  let [host, ours]: Generator[] = [];
  beforeAll(async () => {
    [host, ours] = await Promise.all([hostGenerator(name, folders.exported), ourGenerator(name, folders.dense)]);
  });
  afterAll(async () => {
    await ours?.dispose();
    await host?.dispose();
  });

  const calls = Object.entries({ ...CALLS, ...(name === "huggingface" ? NEWER_CALLS : {}) });

  test.each(calls)("%s", async (_title, call) => {
    expect(await outcome(ours as Generator, call)).toEqual(await outcome(host as Generator, call));
  });

  test("an empty text is refused, and later calls work", async () => {
    for (const generate of [host as Generator, ours as Generator]) {
      await expect(generate("", { max_new_tokens: 4 })).rejects.toThrow();
      expect(await outcome(generate, CALLS["a text"]!)).toHaveLength(1);
    }
  });

  test("concurrent calls give the same texts as calls one after the other", async () => {
    const results = await Promise.all(calls.map(([, call]) => outcome(ours as Generator, call)));
    for (const [index, [, call]] of calls.entries()) {
      expect(results[index]).toEqual(await outcome(ours as Generator, call));
    }
  });
});
