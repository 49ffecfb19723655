// A server in which a rule chooses the expert of each request instead of the model's router.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { ruleRouter } from "@readme-moe/router";
import express from "express";
import { expertFor } from "./expert-for.ts";

const PROMPTS = [
  "import os\nimport sys\n\ndef main(argv):\n",
  "In this paper, we study the spectrum of the",
  "The ship was three days out of port when",
];

const engine = await ReadMeEngine.open(process.argv[2] ?? "models/pocket-experts");
const { experts } = engine.info;

const app = express().use(
  readMe({
    engine,
    onRequest: (body) => {
      const text = "prompt" in body ? body.prompt : "messages" in body ? body.messages.at(-1)?.content : undefined;
      // The model's router handles token ids and lists of texts. Embeddings and rankings have no expert.
      if (typeof text !== "string") return body;
      return { ...body, read_me: { expert: expertFor(text), ...body.read_me } };
    },
  }),
);
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/completions`;

// A router can also be used alone: this one routes tokens without letters to one expert and all others to another.
const { bytes, offsets } = await engine.vocabulary();
const textOf = (id: number): string => Buffer.from(bytes.subarray(offsets[id], offsets[id + 1])).toString();
const [code, prose] = [experts.indexOf("github"), experts.indexOf("book")];
const byToken = ruleRouter(experts.length, (id) => (/\p{L}/u.test(textOf(id)) ? prose : code));

for (const prompt of PROMPTS) {
  const { tokenIds, experts: routed } = await engine.route(prompt);
  const [ruled] = await byToken.route([{ state: byToken.start(), tokenIds }]);
  const answer = await ask(prompt);
  console.log(JSON.stringify(prompt));
  console.log("  the model's router:", counts(routed));
  console.log("  a rule by token:   ", counts(ruled?.experts ?? []));
  console.log("  our rule by text:  ", counts([...answer.promptRoute, ...answer.route]), "(with the answer)");
  console.log("  answer:", JSON.stringify(answer.text), "\n");
}

server.close();
await engine.dispose();

async function ask(prompt: string) {
  const read_me = { include: ["routes"] };
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt, max_tokens: 24, temperature: 0, read_me }),
  });
  const { choices, read_me: details } = (await response.json()) as {
    readonly choices: readonly [{ readonly text: string; readonly read_me: { readonly routes: readonly number[] } }];
    readonly read_me: { readonly prompt_routes: readonly [readonly number[]] };
  };
  return { text: choices[0].text, route: choices[0].read_me.routes, promptRoute: details.prompt_routes[0] };
}

/** Formats tokens by expert, such as `github 9, book 2`. */
function counts(route: ArrayLike<number>): string {
  const tokens = experts.map((name, expert) => ({ name, count: Array.from(route).filter((e) => e === expert).length }));
  const used = tokens.filter(({ count }) => count > 0).toSorted((a, b) => b.count - a.count);
  return used.map(({ name, count }) => `${name} ${count}`).join(", ");
}
