// A tool call of a real model with random weights.

import { join } from "node:path";
import { ReadMeEngine } from "@readme-moe/engine";
import { Grammars } from "@readme-moe/grammar";
import { afterAll, beforeAll, expect, test } from "vitest";
import { joinToolCalls, type ToolCallDelta } from "../../../packages/express/src/tools/tool-call-parser.ts";
import { constrainCalls } from "../../../packages/express/src/tools/tools.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../../support/tiny-read-me.ts";

const folder = await persistentFolder();
let engine: ReadMeEngine;
let grammars: Grammars;
beforeAll(async () => {
  await writeTinyReadMe(join(folder, "model"), WITH_TOKENIZER);
  engine = await ReadMeEngine.open(join(folder, "model"), {
    precision: "fp32",
    threads: 2,
    cacheFolder: join(folder, "cache"),
  });
  grammars = await Grammars.open(engine);
});
afterAll(async () => {
  await grammars.dispose();
  await engine.dispose();
});

test("any model makes a required call, which arrives in pieces and is valid", async () => {
  const parameters = { type: "object", properties: { on: { type: "boolean" } }, required: ["on"] };
  const tools = [{ type: "function", function: { name: "light", parameters } }] as const;
  const fields = { tools, tool_choice: "required", parallel_tool_calls: false } as const;
  const { constraint, newParser } = await constrainCalls(fields, { ...engine.info, toolsStrict: false }, (answers) =>
    grammars.tagged(answers),
  );
  const parser = newParser?.(() => "call");
  if (!constraint || !parser) throw new Error("Expected answers to be bound");
  const deltas: ToolCallDelta[] = [];
  const params = { maxTokens: 200, temperature: 1.5, seed: 9 };
  for await (const { text } of engine.generate({ prompt: "Light", params, processLogits: constraint.processor() })) {
    const { content, toolCalls } = parser.push(text);
    expect(content).toBe("");
    deltas.push(...toolCalls);
  }
  expect(parser.end()).toEqual({ content: "", toolCalls: [] });
  expect(parser.calledTools).toBe(true);
  expect(deltas.length).toBeGreaterThan(1);
  const [call, ...others] = joinToolCalls(deltas) as readonly { function: { name: string; arguments: string } }[];
  expect(others).toEqual([]);
  expect(call?.function.name).toBe("light");
  expect([{ on: true }, { on: false }]).toContainEqual(JSON.parse(call?.function.arguments ?? ""));
});
