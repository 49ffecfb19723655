// The example `observability`: its spans, its metrics, and its page in a browser.

import { join } from "node:path";
import { ROOT_CONTEXT } from "@opentelemetry/api";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { ReadMeEmitter } from "@readme-moe/core";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { traceSequences } from "../../examples/observability/trace-sequences.ts";
import { findChromium, launchChromium } from "../support/chromium.ts";
import { EXAMPLES, startProgram } from "../support/examples.ts";
import { scrape } from "../support/prometheus.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeReadingModel } from "../support/reading-model.ts";

const NUM_EXPERTS = 3;
const REQUESTS = 3;
const COMPLETION_TOKENS = 8;
const executablePath = await findChromium();

interface Printed extends Readonly<Record<string, unknown>> {
  readonly span: string;
  readonly ms: number;
  readonly events?: readonly string[];
}

let model: string;
beforeAll(async () => {
  model = join(await persistentFolder(), "tiny");
  await writeReadingModel(model, { numExperts: NUM_EXPERTS });
});

describe("the example", () => {
  test(
    "prints a span for each sequence and each step, and shows metrics on its page",
    { timeout: 300_000 },
    async () => {
      const { printed, output, stop } = startProgram([join(EXAMPLES, "run.ts"), "observability", model], { PORT: "0" });
      const [, url = ""] = await printed(/Dashboard: (\S+)\/dashboard/);
      const spans = spansOf(output());
      const sequences = spans.filter(({ span }) => span === "text_completion pocket");
      expect(sequences).toHaveLength(REQUESTS);
      for (const sequence of sequences) {
        expect(sequence).toMatchObject({
          "gen_ai.operation.name": "text_completion",
          "gen_ai.provider.name": "readme-moe",
          "gen_ai.request.model": "pocket",
          "gen_ai.response.model": "pocket",
          "gen_ai.response.finish_reasons": [expect.stringMatching(/^(length|stop)$/)],
        });
        const events = (sequence.events ?? []).map((event) => event.split(" +"));
        expect(events.map(([name]) => name)).toEqual(["queued", "prefill", "first token", "finished"]);
        const times = events.map(([, ms]) => Number(ms));
        expect(times).toEqual(times.toSorted((a, b) => a - b));
        expect(times.at(-1)).toBeCloseTo(sequence.ms, 0);
      }
      // Each sequence was in the steps that made its tokens. With drafts, a step can make several.
      const steps = spans.filter(({ span }) => span === "step");
      for (const sequence of sequences) {
        const id = String(sequence["gen_ai.response.id"]);
        const own = steps.filter((step) =>
          (step["readme.sequences"] as readonly string[]).some((one) => one.startsWith(id)),
        );
        expect(own.length).toBeGreaterThan(1);
      }
      const before = await scrape(url);
      const routed = before.samples.filter(({ name }) => name === "example_routed_tokens_total");
      expect(routed).toHaveLength(NUM_EXPERTS);
      const total = (key: string): number => sequences.reduce((sum, sequence) => sum + Number(sequence[key]), 0);
      // A completion's last token is not routed.
      expect(routed.reduce((sum, { value }) => sum + value, 0)).toBe(
        total("gen_ai.usage.input_tokens") + total("gen_ai.usage.output_tokens") - REQUESTS,
      );
      expect(before.value("readme_generation_tokens_total")).toBe(total("gen_ai.usage.output_tokens"));
      expect(total("gen_ai.usage.output_tokens")).toBeLessThanOrEqual(REQUESTS * COMPLETION_TOKENS);
      if (executablePath !== undefined) await lookAtPage(executablePath, url);
      expect(await stop("SIGTERM")).toBe(0);
    },
  );
});

async function lookAtPage(path: string, url: string): Promise<void> {
  const browser = await launchChromium(path);
  onTestFinished(() => browser.close());
  const page = await browser.newPage({ viewport: { width: 360, height: 640 } });
  const complaints: string[] = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(`${url}/dashboard`);
  await page.getByText("live", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Send 8 requests" }).click();
  const card = page.locator(".card", { hasText: "experts per step" }).locator("output");
  await expect.poll(() => card.innerText()).toMatch(/^[1-3]\.\d\d$/);
  const shown = async (): Promise<readonly number[]> =>
    (await page.locator("#experts dd:last-of-type, #experts dd:nth-of-type(2n)").allInnerTexts()).map(Number);
  const routed = async (): Promise<readonly number[]> =>
    (await scrape(url)).samples.filter(({ name }) => name === "example_routed_tokens_total").map(({ value }) => value);
  await page.locator("#ask:enabled").waitFor();
  await expect.poll(async () => [await shown(), await routed()]).toSatisfy(([on, of]) => String(on) === String(of));
  expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(360);
  expect(complaints).toEqual([]);
}

describe("traceSequences", () => {
  const finished = {
    promptTokens: 4,
    completionTokens: 0,
    cachedTokens: 0,
    acceptedDraftTokens: 0,
    rejectedDraftTokens: 0,
    queuedMs: 5,
    durationMs: 5,
  };

  test("a sequence that was aborted in the queue has neither prefill nor first token", () => {
    const { events, spans } = traced();
    events.emit("sequence:queued", { sequenceId: "a", promptTokens: 4, numWaiting: 2 });
    events.emit("sequence:finished", { sequenceId: "a", reason: "abort", ...finished });
    const [span] = spans();
    expect(span?.events.map(({ name }) => name)).toEqual(["queued", "finished"]);
    expect(span?.attributes).toMatchObject({ "gen_ai.response.finish_reasons": ["abort"] });
    expect(span?.parentSpanContext ?? ROOT_CONTEXT).toBe(ROOT_CONTEXT);
  });

  test("spans have preemptions, and the engine's times", () => {
    const { events, spans } = traced();
    events.emit("sequence:queued", { sequenceId: "a", promptTokens: 4, numWaiting: 1 });
    events.emit("token:generated", { sequenceId: "a", tokenId: 1, position: 4, sinceMs: 40, isFirst: true });
    events.emit("sequence:preempted", { sequenceId: "a", tokens: 5 });
    events.emit("sequence:finished", { sequenceId: "a", reason: "length", ...finished, queuedMs: 10, durationMs: 90 });
    const [span] = spans();
    const start = milliseconds(span?.startTime);
    expect(milliseconds(span?.endTime) - start).toBeCloseTo(90, 0);
    const since = Object.fromEntries((span?.events ?? []).map(({ name, time }) => [name, milliseconds(time) - start]));
    expect(Object.keys(since)).toEqual(["queued", "prefill", "first token", "preempted", "finished"]);
    expect(since["prefill"]).toBeCloseTo(10, 0);
    expect(since["first token"]).toBeCloseTo(40, 0);
  });

  test("a failing engine ends the spans of all unfinished sequences with its code", () => {
    const { events, spans } = traced();
    for (const sequenceId of ["a", "b"]) events.emit("sequence:queued", { sequenceId, promptTokens: 4, numWaiting: 1 });
    events.emit("engine:failed", { code: "ERR_ENGINE_FAILED", message: "gone" });
    events.emit("sequence:finished", { sequenceId: "a", reason: "stop", ...finished });
    expect(spans().map(({ attributes, status }) => [attributes["error.type"], status.message])).toEqual([
      ["ERR_ENGINE_FAILED", "gone"],
      ["ERR_ENGINE_FAILED", "gone"],
    ]);
  });
});

function traced() {
  const exporter = new InMemorySpanExporter();
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  const events = new ReadMeEmitter();
  traceSequences(events, provider.getTracer("test"), "m");
  return { events, spans: () => exporter.getFinishedSpans() };
}

function spansOf(output: string): readonly Printed[] {
  return output
    .split("\n")
    .filter((line) => line.startsWith('{"span"'))
    .map((line) => JSON.parse(line) as Printed);
}

function milliseconds([seconds, nanoseconds]: readonly [number, number] = [NaN, NaN]): number {
  return seconds * 1e3 + nanoseconds / 1e6;
}
