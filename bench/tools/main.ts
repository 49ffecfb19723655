// Counts the calls of tools that a real model means, and those that arrive over HTTP: whole and streamed, with tools
// that are left to the model, required, and strict. What is meant is judged on the raw text by a plain reader.
//
//   npm run bench:tools -- --model FILE [--cases 40] [--modes auto,required,strict] [--max-tokens 200]
//     [--parallel] [--temperature 0.7] [--show | --differences]
//
// With --show, each raw text is printed with what arrived; with --differences, those whose calls did not all arrive.

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { parseArgs } from "node:util";
import type { Engine, GenerateRequest, Generation } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import { Ajv2020 } from "ajv/dist/2020.js";
import express from "express";
import { jsonOf } from "../../packages/express/src/tools/call-input.ts";
import {
  joinToolCalls,
  type ToolCallDelta,
  type WholeToolCall,
} from "../../packages/express/src/tools/tool-call-parser.ts";
import { BENCH_TOOLS, benchCases } from "./cases.ts";
import { meantCalls, type MeantCall } from "./oracle.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2:135m" },
    cases: { type: "string", default: "40" },
    modes: { type: "string", default: "auto,required,strict" },
    "max-tokens": { type: "string", default: "200" },
    temperature: { type: "string", default: "0" },
    parallel: { type: "boolean", default: false },
    show: { type: "boolean", default: false },
    differences: { type: "boolean", default: false },
  },
});

/** Text of the last answer, as the model wrote it. */
let raw = "";

/** Returns the same engine, whose answers are recorded. */
function recording(engine: Engine): Engine {
  return new Proxy(engine, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (key === "generate") return (request: GenerateRequest) => recorded(target.generate(request));
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

function recorded(generation: Generation): Generation {
  raw = "";
  async function* chunks() {
    for await (const chunk of generation) {
      raw += chunk.text;
      yield chunk;
    }
  }
  return Object.assign(chunks(), { accepted: generation.accepted });
}

const names = new Set(BENCH_TOOLS.map((tool) => tool.function.name));
const ajv = new Ajv2020({ strict: false, validateFormats: false });
const validators = new Map(BENCH_TOOLS.map((tool) => [tool.function.name, ajv.compile(tool.function.parameters)]));

interface Answered {
  readonly calls: readonly WholeToolCall["function"][];
  readonly content: string;
  /** Whether the answer reached its limit. */
  readonly isCut: boolean;
}

interface Delta {
  readonly content?: string | null;
  readonly tool_calls?: readonly (Omit<ToolCallDelta, "index"> & { readonly index?: number })[];
}

async function ask(url: string, body: object, isStreamed: boolean): Promise<Answered> {
  const init = { method: "POST", headers: { "content-type": "application/json" } };
  const response = await fetch(url, { ...init, body: JSON.stringify({ ...body, stream: isStreamed }) });
  const text = await response.text();
  if (!response.ok) throw new Error(`status ${response.status}: ${text}`);
  const isCut = /"finish_reason":\s*"length"/.test(text);
  const messages: readonly Delta[] = isStreamed
    ? text.split("\n\n").flatMap((event) => {
        if (!event.startsWith("data: {")) return [];
        const { choices } = JSON.parse(event.slice(6)) as { readonly choices: readonly { readonly delta: Delta }[] };
        return choices.map(({ delta }) => delta);
      })
    : (JSON.parse(text) as { readonly choices: readonly { readonly message: Delta }[] }).choices.map(
        ({ message }) => message,
      );
  const calls: WholeToolCall[] = [];
  let content = "";
  for (const message of messages) {
    content += message.content ?? "";
    joinToolCalls(
      (message.tool_calls ?? []).map((call, index) => ({ index, ...call })),
      calls,
    );
  }
  return { calls: calls.map((call) => call.function), content, isCut };
}

/** Counts of one mode. */
interface Counts {
  cases: number;
  /** Answers whose text means a call. */
  meant: number;
  /** Answers among these all of whose calls arrived. */
  arrived: number;
  /** Calls that arrived and that no text means, without those that an answer's limit cut. */
  invented: number;
  /** Calls that arrived, those of them that the limit cut, and those with valid arguments. */
  calls: number;
  cut: number;
  valid: number;
  /** Cases whose function was called, or where none was to be called. */
  right: number;
}

function isSame({ calls }: Answered, meant: readonly MeantCall[]): boolean {
  const written = calls.map(({ name, arguments: args }) => [name, jsonOf(args)]);
  return JSON.stringify(written) === JSON.stringify(meant.map(({ name, args }) => [name, args]));
}

const engine = await ReadMeEngine.open(values.model);
const app = express().use(
  readMe.api({
    models: { model: recording(engine) },
    admission: { maxQueueMs: 600_000 },
    grammars: { maxCompileMs: 120_000 },
  }),
);
const server = createServer(app).listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/chat/completions`;
try {
  console.log("| mode | answers | cases | meant | arrived | invented | calls | cut | valid | right |");
  console.log("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
  for (const mode of values.modes.split(",")) {
    for (const isStreamed of [false, true]) {
      const counts = await countMode(mode, isStreamed);
      console.log(`| ${mode} | ${isStreamed ? "streamed" : "whole"} | ${Object.values(counts).join(" | ")} |`);
    }
  }
} finally {
  server.close();
  server.closeAllConnections();
  await engine.dispose();
}

async function countMode(mode: string, isStreamed: boolean): Promise<Counts> {
  const counts: Counts = { cases: 0, meant: 0, arrived: 0, invented: 0, calls: 0, cut: 0, valid: 0, right: 0 };
  const strict = mode === "strict";
  const tools = BENCH_TOOLS.map((tool) => ({ ...tool, function: { ...tool.function, strict } }));
  for (const { question, expected, seed } of benchCases(Number(values.cases))) {
    const messages = [{ role: "user", content: question }];
    const choice = mode === "required" ? "required" : "auto";
    const limits = { max_tokens: Number(values["max-tokens"]), temperature: Number(values.temperature), seed };
    const own = { tools, tool_choice: choice, parallel_tool_calls: values.parallel };
    const answered = await ask(url, { model: "model", messages, ...limits, ...own }, isStreamed);
    const all = meantCalls(raw, names);
    // One call is allowed unless --parallel is given.
    const meant = values.parallel ? all : all.slice(0, 1);
    const isArrived = isSame(answered, meant);
    counts.cases++;
    if (meant.length > 0) counts.meant++;
    if (meant.length > 0 && isArrived) counts.arrived++;
    const unmeant = Math.max(0, answered.calls.length - meant.length);
    const cut = Math.min(unmeant, answered.isCut ? 1 : 0);
    counts.cut += cut;
    counts.invented += unmeant - cut;
    counts.calls += answered.calls.length;
    counts.valid += answered.calls.filter(
      (call) => validators.get(call.name)?.(jsonOf(call.arguments)) === true,
    ).length;
    if (answered.calls[0]?.name === expected) counts.right++;
    if (!values.show && (!values.differences || isArrived)) continue;
    console.log(
      `--- ${mode}, ${isArrived ? "as meant" : "not as meant"}: ${question}\n${raw}\n=> ${JSON.stringify(answered)}`,
    );
  }
  return counts;
}
