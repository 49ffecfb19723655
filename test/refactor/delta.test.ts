// Delta files: packing, applying and refusing.

import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { beforeAll, expect, test } from "vitest";
import { openModel, SafetensorsFile, writeSafetensors, type Model } from "@readme-moe/model";
import { applyDelta, packDelta, type ApplyReport, type PackReport } from "@readme-moe/refactor";
import { writeCut, writeDense, type CutOptions } from "../support/cut-model.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const at = (name: string): string => join(folder, name);
const PLENTY = 10e6;

beforeAll(async () => {
  await writeDense(at("dense"));
  await writeDense(at("half"), { type: "F16" });
  await writeDense(at("stranger"), { seed: 2 });
  await writeCut(at("cut"));
});

async function opened<Result>(paths: readonly string[], use: (...models: Model[]) => Promise<Result>): Promise<Result> {
  const models = await Promise.all(paths.map(openModel));
  try {
    return await use(...models);
  } finally {
    for (const model of models) await model.close();
  }
}

const pack = (model: string, out: string, maxBytes = PLENTY, base = at("dense")): Promise<PackReport> =>
  opened([model, base], (m, b) => packDelta(m, b, out, { maxBytes }));

const apply = (file: string, out: string, base = at("dense"), warnings: string[] = []): Promise<ApplyReport> =>
  opened([base], (b) => applyDelta(file, b, out, { onWarning: (message) => void warnings.push(message) }));

let made = 0;

/** A model's folder before and after packing and applying. */
async function throughFile(
  options: CutOptions,
  maxBytes?: number,
): Promise<{
  readonly before: string;
  readonly after: string;
  readonly file: string;
  readonly report: PackReport;
}> {
  const [before, file, after] = [at(`before-${++made}`), at(`${made}.adapter`), at(`after-${made}`)];
  await writeCut(before, options);
  const report = await pack(before, file, maxBytes);
  await apply(file, after);
  return { before, file, after, report };
}

async function weightsOnly(path: string): Promise<Record<string, string>> {
  const hashes = Object.entries(await modelHashes(path)).filter(([name]) => name.endsWith(".safetensors"));
  return Object.fromEntries(hashes);
}

/** Mean squared difference over all experts' weights. */
async function squaredError(a: string, b: string): Promise<number> {
  let [sum, count] = [0, 0];
  for (const name of await readdir(join(a, "experts"))) {
    const [x, y] = await Promise.all([a, b].map((path) => SafetensorsFile.open(join(path, "experts", name))));
    for (const tensor of x!.names) {
      const [u, v] = [await x!.readFloats(tensor), await y!.readFloats(tensor)];
      u.forEach((value, index) => (sum += (value - v[index]!) ** 2));
      count += u.length;
    }
    await x!.close();
    await y!.close();
  }
  return sum / count;
}

test.each<[string, CutOptions]>([
  ["is cut", {}],
  ["is cut without a refit", { refit: 0 }],
  ["has a shared part", { sharedSize: 30 }],
  ["has no router", { hasRouter: false }],
  ["is tuned everywhere", { tuned: 0.02, sharedSize: 30 }],
])("restores a model that %s bit for bit when bytes are plenty", async (_, options) => {
  const { before, after } = await throughFile(options);
  expect(await weightsOnly(after)).toEqual(await weightsOnly(before));
});

test("restores config, report and card, with a note about the cost of packing", async () => {
  const { after } = await throughFile({});
  const config = JSON.parse(await readFile(join(after, "config.json"), "utf8"));
  expect(config.readme).toMatchObject({
    num_experts: 3,
    expert_names: ["a", "b", "c"],
    provenance: { base: "random" },
  });
  expect(config.readme.provenance.packed.base.name).toBe("dense");
  expect(await readFile(join(after, "report.json"), "utf8")).toBe("{}\n");
  expect(await readFile(join(after, "README.md"), "utf8")).toMatch(/^# A model\n[^]*before the model was packed/);
});

test("restores the same model from neurons in another order", async () => {
  const [plain, shuffled] = [await throughFile({}), await throughFile({ isShuffled: true })];
  expect(await weightsOnly(shuffled.before)).not.toEqual(await weightsOnly(plain.before));
  expect(await weightsOnly(shuffled.after)).toEqual(await weightsOnly(plain.before));
});

test("stores weights that equal the base's without data", async () => {
  const { report } = await throughFile({ refit: 0, hasRouter: false });
  expect(report.codings["base"]).toBeGreaterThan(20);
  expect(report.codings["steps"]).toBeUndefined();
});

test("errs less with more bytes, and never exceeds the requested size", async () => {
  const whole = await throughFile({ tuned: 0.01 });
  const errors: number[] = [];
  const least = whole.report.bytes / 3;
  const numShares = RUNS_LONG_TESTS ? 6 : 2;
  for (let share = 0; share <= numShares; share++) {
    const maxBytes = Math.floor(least + (share / numShares) * (whole.report.bytes - least));
    const { before, after, report, file } = await throughFile({ tuned: 0.01 }, maxBytes);
    const { length } = await readFile(file);
    expect(length).toBe(report.bytes);
    expect(length).toBeLessThanOrEqual(maxBytes);
    errors.push(await squaredError(before, after));
  }
  for (let i = 1; i < errors.length; i++) expect(errors[i]!).toBeLessThan(errors[i - 1]! || Number.MIN_VALUE);
  expect(errors.at(-1)).toBe(0);
});

test("stores changes of low rank as factors, with less error in the same bytes", async () => {
  const maxBytes = 130_000;
  const thin = await throughFile({ refit: 0.03, tuned: 0.03, rank: 2 }, maxBytes);
  const full = await throughFile({ refit: 0.03, tuned: 0.03 }, maxBytes);
  expect(thin.report.codings["low-rank"]).toBeGreaterThan(10);
  expect(full.report.codings["low-rank"]).toBeUndefined();
  const [low, high] = [await squaredError(thin.before, thin.after), await squaredError(full.before, full.after)];
  expect(low).toBeLessThan(high / 10);
});

test("keeps small changes of many weights beside large changes of few", async () => {
  const { report } = await throughFile({ refit: 0.2, tuned: 0.004 }, 105_000);
  expect(report.relative_errors["down"]).toBeLessThan(0.1);
  expect(report.relative_errors["gate"]).toBeLessThan(0.3);
  expect(report.relative_errors["up"]).toBeLessThan(0.3);
});

test("packs the same model into the same file", async () => {
  await pack(at("cut"), at("one.adapter"), 100_000);
  await pack(at("cut"), at("two.adapter"), 100_000);
  expect(Buffer.compare(await readFile(at("one.adapter")), await readFile(at("two.adapter")))).toBe(0);
});

test("refuses a size that is too small, naming the least size", async () => {
  await expect(pack(at("cut"), at("tiny.adapter"), 1000)).rejects.toThrow(
    /`maxBytes` to be at least about \d+.*got 1000/,
  );
  expect(existsSync(at("tiny.adapter"))).toBe(false);
});

test("accepts the base in another file with the same numbers", async () => {
  await pack(at("cut"), at("cut.adapter"));
  // Two shards instead of one file.
  await mkdir(at("shards"));
  const source = await SafetensorsFile.open(join(at("dense"), "model.safetensors"));
  const weightMap: Record<string, string> = {};
  for (const part of [0, 1]) {
    const names = source.names.filter((_, index) => index % 2 === part);
    const name = `part-${part}.safetensors`;
    const inputs = names.map((one) => ({ ...source.info(one), bytes: () => source.readBytes(one) }));
    await writeSafetensors(join(at("shards"), name), inputs);
    for (const one of names) weightMap[one] = name;
  }
  await source.close();
  const index = JSON.stringify({ metadata: {}, weight_map: weightMap });
  await writeFile(join(at("shards"), "model.safetensors.index.json"), index);
  await writeFile(join(at("shards"), "config.json"), await readFile(join(at("dense"), "config.json")));
  const warnings: string[] = [];
  expect(await apply(at("cut.adapter"), at("from-shards"), at("shards"), warnings)).toMatchObject({ match: "same" });
  expect(warnings).toEqual([]);
  expect(await weightsOnly(at("from-shards"))).toEqual(await weightsOnly(at("cut")));
});

test("accepts another precision of the base, with a warning that names the difference", async () => {
  await pack(at("cut"), at("cut.adapter"));
  const warnings: string[] = [];
  const report = await apply(at("cut.adapter"), at("from-half"), at("half"), warnings);
  expect(report.match).toBe("near");
  expect(report.relative_difference).toBeGreaterThan(1e-5);
  expect(report.relative_difference).toBeLessThan(1e-3);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/is not dense \(sha256 [0-9a-f]{16}….*tensors differ.*0\.0\d+ %/s);
  expect(await squaredError(at("cut"), at("from-half"))).toBeLessThan(1e-8);
});

test("refuses another model as the base of packing and applying", async () => {
  await pack(at("cut"), at("cut.adapter"));
  const wrong = apply(at("cut.adapter"), at("from-stranger"), at("stranger"));
  await expectReadMeError(wrong, "ERR_MODEL_UNSUPPORTED", at("stranger"), "another model", "differ by 1");
  expect(existsSync(at("from-stranger"))).toBe(false);
  await expectReadMeError(
    apply(at("cut.adapter"), at("from-cut"), at("cut")),
    "ERR_MODEL_UNSUPPORTED",
    "not a dense model",
  );
  await expectReadMeError(pack(at("dense"), at("x.adapter")), "ERR_MODEL_UNSUPPORTED", "not a Read-ME model folder");
  await expectReadMeError(
    pack(at("cut"), at("x.adapter"), PLENTY, at("cut")),
    "ERR_MODEL_UNSUPPORTED",
    "not a dense model",
  );
});

test("refuses a file of an older version, saying what to do", async () => {
  await pack(at("cut"), at("cut.adapter"));
  const source = await SafetensorsFile.open(at("cut.adapter"));
  const inputs = source.names.map((name) => ({ ...source.info(name), bytes: () => source.readBytes(name) }));
  await writeSafetensors(at("old.adapter"), inputs, { ...Object.fromEntries(source.metadata), version: "1" });
  await source.close();
  const reason = 'is a delta file of version "1", and this release reads version 2; pack its model again';
  await expectReadMeError(apply(at("old.adapter"), at("from-old")), "ERR_MODEL_UNSUPPORTED", at("old.adapter"), reason);
});

test("leaves a folder with content unchanged", async () => {
  await pack(at("cut"), at("cut.adapter"));
  await mkdir(at("occupied"));
  await writeFile(join(at("occupied"), "mine.txt"), "mine");
  await expectReadMeError(apply(at("cut.adapter"), at("occupied")), "ERR_WRITE_FAILED", at("occupied"));
  expect(await readdir(at("occupied"))).toEqual(["mine.txt"]);
});

test("finds any damage, names the file, and leaves nothing behind", async () => {
  await pack(at("cut"), at("cut.adapter"), 100_000);
  const good = await readFile(at("cut.adapter"));
  const headerEnd = 8 + Number(good.readBigUint64LE(0));
  const random = seededRandom(5);
  const places = [
    0,
    3,
    7,
    9,
    headerEnd - 1,
    headerEnd,
    good.length - 1,
    ...Array.from({ length: 15 }, () => randomInteger(random, headerEnd)),
    ...Array.from({ length: 15 }, () => headerEnd + randomInteger(random, good.length - headerEnd)),
  ];
  const damaged = at("damaged.adapter");
  const before = (await readdir(folder)).toSorted();
  for (const place of places) {
    const bytes = Buffer.from(good);
    bytes[place] = bytes[place]! ^ (1 + randomInteger(random, 255));
    await writeFile(damaged, bytes);
    const outcome = await apply(damaged, at("from-damaged")).then(
      () => "applied",
      (error: Error & { code?: string }) => error,
    );
    if (typeof outcome === "string") throw new Error(`the damage at byte ${place} was missed`);
    expect(outcome.code, outcome.stack).toMatch(/^ERR_(FILE_CORRUPT|MODEL_UNSUPPORTED|MODEL_INVALID)$/);
    expect(outcome.message).toContain(damaged);
    if (place >= headerEnd) expect(outcome.message).toMatch(/tensor ".+" is damaged/);
  }
  for (const length of [0, 5, 100, headerEnd, good.length - 1]) {
    await writeFile(damaged, good.subarray(0, length));
    await expectReadMeError(apply(damaged, at("from-damaged")), "ERR_FILE_CORRUPT", damaged);
  }
  expect((await readdir(folder)).toSorted()).toEqual([...before, "damaged.adapter"].toSorted());
});

type Row = [name: string, type: string, shape: number[], coding: string, ...unknown[]];

/** The forged parts of a file's description. */
interface Content {
  base: unknown;
  backbone: unknown;
  experts: Row[][];
  readonly readme: { num_experts: number; expert_size: unknown; readonly router: { embedding_size: number } };
}

/** Size of the file that is forged. */
let codedBytes: number | undefined;

/** Packs the file so small that some matrices are coded. */
async function packCoded(): Promise<number> {
  const { bytes } = await pack(at("cut"), at("whole.adapter"));
  return (await pack(at("cut"), at("coded.adapter"), bytes - 25_000)).bytes;
}

/** Writes the file with another description and a matching hash. */
async function forged(change: (content: Content) => void): Promise<string> {
  const source = await SafetensorsFile.open(at("coded.adapter"));
  const content = JSON.parse(source.metadata.get("content")!) as Content;
  change(content);
  const text = JSON.stringify(content);
  const inputs = source.names.map((name) => ({ ...source.info(name), bytes: () => source.readBytes(name) }));
  await writeSafetensors(at("forged.adapter"), inputs, {
    ...Object.fromEntries(source.metadata),
    content: text,
    sha256: createHash("sha256").update(text).digest("hex"),
  });
  await source.close();
  return at("forged.adapter");
}

/** Finds a down projection that is coded in integers. */
const down = ({ experts }: Content): Row =>
  experts.flat().find(([name, , , coding]) => coding === "steps" && name.endsWith("down_proj.weight"))!;

test.each<[string, (content: Content) => void]>([
  ["another size", (c) => (down(c)[2] = [64, 71])],
  ["a huge size", (c) => (down(c)[2] = [2 ** 30, 2 ** 30])],
  ["a step that is none", (c) => (down(c)[4] = -1)],
  ["a way of coding that is none", (c) => (down(c)[3] = "magic")],
  ["factors where there are none", (c) => down(c).splice(3, 2, "low-rank", 0.1, 3)],
  ["a tensor twice", (c) => c.experts[0]!.push(c.experts[0]![0]!)],
  ["a tensor missing", (c) => c.experts[1]!.shift()],
  ["a tensor of its own that it does not have", (c) => down(c).splice(3, 2, "whole")],
  ["a type that is none", (c) => (down(c)[1] = "F12")],
  ["more experts than it has", (c) => (c.readme.num_experts = 4)],
  ["experts of another size", (c) => (c.readme.expert_size = 71)],
  ["sizes of a strange kind", (c) => (c.readme.expert_size = { 0: 72 })],
  ["a router of another size", (c) => (c.readme.router.embedding_size = 24)],
  ["no experts", (c) => (c.experts = [])],
  ["no base", (c) => (c.base = "dense")],
  ["a list in place of itself", (c) => (c.backbone = { length: 3 })],
])("refuses a forged file that claims %s", async (_, change) => {
  codedBytes ??= await packCoded();
  const file = await forged(change);
  const outcome = await apply(file, at("from-forged")).then(
    () => undefined,
    (error: Error & { code?: string }) => error,
  );
  expect(outcome?.code, outcome?.stack).toMatch(/^ERR_(FILE_CORRUPT|MODEL_INVALID)$/);
  expect(outcome?.message).toContain(file);
  expect(existsSync(at("from-forged"))).toBe(false);
  expect((await readdir(folder)).filter((name) => name.startsWith(".from-forged"))).toEqual([]);
});
