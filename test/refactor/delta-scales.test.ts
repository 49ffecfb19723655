// Delta files whose changes are rounded by the inputs of each column.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as fc from "../support/fast-check.ts";
import { openModel, SafetensorsFile, writeSafetensors } from "@readme-moe/model";
import { applyDelta, packDelta, refactor } from "@readme-moe/refactor";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputScales, scaledColumns, scalesOf } from "../../packages/refactor/src/delta/input-scales.ts";
import { LITTLE, pocketTexts } from "../support/pocket-texts.ts";
import { POCKET } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { runCli } from "../support/run-cli.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
// A size at which much is lost. In 1.3 MB, where little is lost, texts do not help (docs/tuning.md).
const BYTES = 1_040_000;
const SCALED = "scaled.adapter";
const at = (name: string): string => join(folder, name);
const texts = await pocketTexts();
const pocket = await openModel(POCKET);
afterAll(() => pocket.close());

describe("scales", () => {
  const sizes = { numLayers: 2, hiddenSize: 3, intermediateSize: 4 };
  const layer = { attention: [1, 1, 1], ffn: [1, 1, 16], neurons: [0, 4, 4, 64] };
  const squares = [layer, { ...layer, ffn: [5, 5, 5] }].map(({ attention, ffn, neurons }) => ({
    attention: Float32Array.from(attention),
    ffn: Float32Array.from(ffn),
    neurons: Float32Array.from(neurons),
  }));
  const scales = inputScales(squares, sizes);
  const of = (name: string, neurons?: number[]) => {
    const found = scalesOf(scales, {
      file: "backbone",
      name: `model.layers.${name}.weight`,
      neurons: neurons && Int32Array.from(neurons),
    });
    return found && Array.from(found);
  };

  test("are about the fourth root of the input squares, with a mean square of 1", () => {
    expect(of("0.self_attn.k_proj")).toEqual([1, 1, 1]);
    const [a, b, c] = of("0.mlp.gate_proj")!;
    expect(a).toBe(b);
    expect(c! / a!).toBe(2);
    expect((a! ** 2 + b! ** 2 + c! ** 2) / 3).toBeGreaterThan(0.9);
    expect((a! ** 2 + b! ** 2 + c! ** 2) / 3).toBeLessThan(1.1);
    expect(of("1.mlp.up_proj")).toEqual([1, 1, 1]);
  });

  test("of a part are those of its neurons, small for a neuron without input", () => {
    const [none, first, second, large] = of("0.mlp.down_proj")!;
    expect(none).toBeGreaterThan(0);
    expect(none).toBeLessThan(first! / 4);
    expect(of("0.mlp.down_proj", [3, 1])).toEqual([large, first]);
    expect(second).toBe(first);
  });

  test("exist for the measured products only", () => {
    for (const name of ["0.self_attn.o_proj", "0.input_layernorm", "2.mlp.gate_proj", "0.mlp.router"]) {
      expect(of(name)).toBeUndefined();
    }
    const q = { file: "backbone", name: "model.layers.0.self_attn.q_proj.weight", neurons: undefined };
    expect(scalesOf(scales, q)).toBeDefined();
    expect(scalesOf(scales, { ...q, name: "model.embed_tokens.weight" })).toBeUndefined();
    expect(scalesOf(scales, { ...q, file: "router" })).toBeUndefined();
    expect(scalesOf(undefined, q)).toBeUndefined();
  });

  test("are removed by dividing after multiplying", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 999 }), { minLength: 8, maxLength: 8 }), (list) => {
        // Sixteenths can be halved and doubled exactly.
        const values = Float32Array.from(list, (value) => value / 16);
        const columns = Float32Array.of(0.5, 1, 2, 8);
        expect(scaledColumns(scaledColumns(values, columns, "times"), columns, "over")).toEqual(values);
        expect(scaledColumns(values, undefined, "over")).toBe(values);
      }),
    );
  });
});

/** Logits of the last tokens of some held-out texts, by the expert of their kind. */
async function logitsOf(path: string): Promise<Float32Array[]> {
  const { tokenizer } = await pocket.loadText();
  const logits: Float32Array[] = [];
  for (const [expert, { documents }] of texts.entries()) {
    await using running = await runningModel(path, expert);
    for (const text of documents.filter((_, index) => index % 12 === 11).slice(0, 8)) {
      const ids = Array.from(tokenizer.encode(text)).slice(0, 100);
      logits.push((await promptLogits(running, ids)).fullLogits);
    }
  }
  return logits;
}

async function distance(path: string, from: readonly Float32Array[]): Promise<number> {
  const squares = (await logitsOf(path)).flatMap((logits, text) =>
    Array.from(logits, (logit, id) => (logit - from[text]![id]!) ** 2),
  );
  return Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / squares.length);
}

async function packed(name: string, withTexts: boolean): Promise<string> {
  const model = await openModel(at("refitted"));
  const options = withTexts ? { maxBytes: BYTES, texts } : { maxBytes: BYTES };
  const report = await packDelta(model, pocket, at(`${name}.adapter`), options);
  await model.close();
  expect(report.bytes).toBeLessThanOrEqual(BYTES);
  await applyDelta(at(`${name}.adapter`), pocket, at(name));
  return at(name);
}

describe("a refitted pocket model", () => {
  beforeAll(async () => {
    const options = { ...LITTLE, baselines: false, threads: 1, source: "pocket" } as const;
    await refactor(pocket, texts, at("refitted"), options);
  });

  test("loses less of its logits in the same bytes when packed with texts", { timeout: 600_000 }, async () => {
    const whole = await logitsOf(at("refitted"));
    const without = await distance(await packed("plain", false), whole);
    const by = await distance(await packed("scaled", true), whole);
    expect(by).toBeLessThan(without);
  });

  test("is packed into the same file by the command with the same texts", async () => {
    const data = texts.map(({ name, files }) => `${name}=${files[0]}`);
    const args = ["pack", at("refitted"), "--base", POCKET, "--out", at("cli.adapter"), "--max-size", `${BYTES}`];
    expect((await runCli([...args, "--data", ...data])).code).toBe(0);
    expect(Buffer.compare(await readFile(at("cli.adapter")), await readFile(at(SCALED)))).toBe(0);
    const missing = await runCli([...args, "--data", at("nothing.jsonl")]);
    expect(missing).toMatchObject({ code: 1, stdout: "" });
  });

  test("is not packed with a text that is too short", async () => {
    const model = await openModel(at("refitted"));
    const short = [{ name: "short", files: [], documents: ["a b c"] }];
    await expect(packDelta(model, pocket, at("short.adapter"), { texts: short })).rejects.toThrow(/"short"/);
    await model.close();
  });

  test("is not made from a file with scales of another model's size", async () => {
    const source = await SafetensorsFile.open(at(SCALED));
    const inputs = source.names.map((name) => {
      const info = source.info(name);
      const shape = name === "scales" ? [info.shape[1]!, info.shape[0]!] : info.shape;
      return { ...info, shape, bytes: () => source.readBytes(name) };
    });
    await writeSafetensors(at("turned.adapter"), inputs, Object.fromEntries(source.metadata));
    await source.close();
    const wrong = applyDelta(at("turned.adapter"), pocket, at("turned"));
    await expectReadMeError(wrong, "ERR_FILE_CORRUPT", at("turned.adapter"), "scales", "has shape");
  });
});
