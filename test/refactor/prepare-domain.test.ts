import { openModel, type Tokenizer } from "@readme-moe/model";
import { beforeAll, expect, test } from "vitest";
import { prepareDomain, type DomainOptions } from "../../packages/refactor/src/job/prepare-domain.ts";
import { POCKET } from "../support/pocket.ts";

const OPTIONS: DomainOptions = {
  calibrationTokens: 64,
  routerTokens: 32,
  evaluationSequences: 2,
  sequenceTokens: 16,
  endOfText: 0,
  seed: 1,
};

let tokenizer: Tokenizer;
beforeAll(async () => {
  const model = await openModel(POCKET);
  ({ tokenizer } = await model.loadText());
  await model.close();
});

/** Makes documents that repeat their own number. */
function documents(count: number): string[] {
  return Array.from({ length: count }, (_, index) => ` document ${index}.`.repeat(20));
}

function textOf(sequences: readonly Int32Array[]): string {
  return sequences.map((ids) => tokenizer.decode(ids)).join("|");
}

test("holds out every twelfth document from calibration and router text", () => {
  const data = prepareDomain({ name: "a", files: [], documents: documents(30) }, tokenizer, OPTIONS);
  expect(data.heldOutDocuments).toBe(2);
  expect(data.calibrationDocuments).toBe(28);
  expect(textOf(data.evaluation)).toContain("document 11.");
  expect(textOf([...data.calibration, ...data.routerText])).not.toMatch(/document (11|23)\./);
});

test("draws as many calibration tokens as requested, and the rest for the router", () => {
  const data = prepareDomain({ name: "a", files: [], documents: documents(30) }, tokenizer, OPTIONS);
  expect(data.calibration.map((ids) => ids.length)).toEqual([16, 16, 16, 16]);
  expect(data.routerText.map((ids) => ids.length)).toEqual([16, 16]);
  expect(data.evaluation).toHaveLength(2);
});

function draw(seed: number): string {
  const options = { ...OPTIONS, seed };
  return textOf(prepareDomain({ name: "a", files: [], documents: documents(30) }, tokenizer, options).calibration);
}

test("draws the same documents for the same seed, and others for another seed", () => {
  expect(draw(1)).toBe(draw(1));
  expect(draw(1)).not.toBe(draw(2));
});

test("does not fill the token budget with a single long document", () => {
  const long = " long".repeat(20_000);
  const options = { ...OPTIONS, calibrationTokens: 4096, routerTokens: 0 };
  const shorts = Array.from({ length: 20 }, (_, index) => ` short ${index}`.repeat(600));
  const data = prepareDomain({ name: "a", files: [], documents: [long, ...shorts] }, tokenizer, options);
  expect(textOf(data.calibration)).toContain("short");
});

test.each([2, 5])("holds out the last of %i documents", (count) => {
  const data = prepareDomain({ name: "a", files: [], documents: documents(count) }, tokenizer, OPTIONS);
  expect(data.heldOutDocuments).toBe(1);
  expect(textOf(data.evaluation)).toContain(`document ${count - 1}.`);
  expect(textOf(data.calibration)).not.toContain(`document ${count - 1}.`);
});

test("holds out the end of a single document", () => {
  const only = Array.from({ length: 400 }, (_, index) => ` word ${index}.`).join("");
  const data = prepareDomain({ name: "a", files: [], documents: [only] }, tokenizer, OPTIONS);
  expect(textOf(data.evaluation)).toContain("word 37");
  expect(textOf(data.calibration)).not.toContain("word 37");
});

test.each([[[]], [[""]], [["a few words"]], [[" enough".repeat(100), "too short"]]])(
  "rejects too little text: %j",
  (texts) => {
    const prepare = (): unknown => prepareDomain({ name: "tiny", files: [], documents: texts }, tokenizer, OPTIONS);
    expect(prepare).toThrow(RangeError);
    expect(prepare).toThrow(/"tiny".*16 tokens/);
  },
);
