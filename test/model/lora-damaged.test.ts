// Damaged adapters: whatever their bytes are, they are taken, or refused by the file's name.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { type Model, openLora, openModel } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { wrongValues, withByte } from "../support/damage.ts";
import { fixture } from "../support/fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { type TinyAdapter, writeTinyAdapter } from "../support/tiny-adapter.ts";

let model: Model;
beforeAll(async () => {
  model = await openModel(fixture("families/llama-tied"));
});
afterAll(() => model.close());

const TENSORS = "adapter_model.safetensors";
const CONFIG = "adapter_config.json";

async function tinyAdapter(adapter: TinyAdapter = {}): Promise<string> {
  return writeTinyAdapter(join(await temporaryFolder(), "legal"), model.config, adapter);
}

/** Opens what may be damaged; returns the error's message, and fails on any error but a `ReadMeError`. */
async function message(folder: string): Promise<string | undefined> {
  try {
    await (await openLora(folder, "legal", model)).close();
    return undefined;
  } catch (error) {
    if (!(error instanceof ReadMeError)) throw new Error("Expected a ReadMeError", { cause: error });
    expect(error.message).toContain(folder);
    return error.message;
  }
}

describe("damaged files", () => {
  test("every wrong byte of a config is read, or refused by the file's name", async () => {
    const folder = await tinyAdapter({
      modules: ["mlp.up_proj"],
      layers: [0],
      config: { alpha_pattern: { "up_.*": 4, "(?:a|b)": 2, "x[a-b]+": 1 } },
    });
    const path = join(folder, CONFIG);
    const bytes = await readFile(path);
    const messages = new Set<string | undefined>();
    for (const [at, value] of bytes.entries()) {
      for (const wrong of wrongValues(value).slice(0, 5)) {
        await writeFile(path, withByte(bytes, at, wrong));
        messages.add(await message(folder));
      }
    }
    expect(messages.size).toBeGreaterThan(15);
  });

  test("random values of every field are taken, or refused by the file's name", async () => {
    const random = seededRandom(7);
    const folder = await tinyAdapter({ modules: ["mlp.up_proj"], layers: [0] });
    const path = join(folder, CONFIG);
    const good = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
    const fields = Object.keys(good);
    fields.push("alpha_pattern", "use_rslora", "bias", "modules_to_save", "init_lora_weights", "use_dora", "__proto__");
    const scalars = [null, true, false, 0, -1, 4, 1e300, 2.5, "", "(", "(?<", "[", "\\", "*", "LORA", "__proto__"];
    const value = (depth: number): unknown => {
      const kind = depth > 2 ? 0 : randomInteger(random, 4);
      if (kind === 1) return Array.from({ length: randomInteger(random, 4) }, () => value(depth + 1));
      if (kind !== 2) return scalars[randomInteger(random, scalars.length)];
      const keys = ["up_proj", ".*", "(", "0", "constructor"].slice(randomInteger(random, 5));
      return Object.fromEntries(keys.map((key) => [key, value(depth + 1)]));
    };
    let numTaken = 0;
    for (let round = 0; round < 1000; round++) {
      const changed = Array.from({ length: 1 + randomInteger(random, 3) }, () => {
        const field = fields[randomInteger(random, fields.length)] ?? "";
        return [field, value(0)] as const;
      });
      await writeFile(path, JSON.stringify({ ...good, ...Object.fromEntries(changed) }));
      if ((await message(folder)) === undefined) numTaken += 1;
    }
    expect(numTaken).toBeGreaterThan(50);
    expect(numTaken).toBeLessThan(950);
  });

  test("every wrong byte of a header, and every cut, is read or refused by the file's name", async () => {
    const folder = await tinyAdapter({ modules: ["mlp.up_proj"], layers: [0] });
    const path = join(folder, TENSORS);
    const bytes = await readFile(path);
    const headerEnd = 8 + Number(bytes.readBigUInt64LE(0));
    const messages = new Set<string | undefined>();
    for (let at = 0; at < headerEnd; at++) {
      for (const wrong of wrongValues(bytes[at] ?? 0).slice(0, 3)) {
        await writeFile(path, withByte(bytes, at, wrong));
        messages.add(await message(folder));
      }
    }
    for (let size = 0; size < bytes.byteLength; size += 17) {
      await writeFile(path, bytes.subarray(0, size));
      expect(await message(folder)).toBeDefined();
    }
    expect(messages.size).toBeGreaterThan(15);
  });
});

describe("hostile adapters", () => {
  test("name modules by expressions that would take years elsewhere", async () => {
    const patterns = Array.from({ length: 1500 }, (_, index) => [`(?:.*.*.*)*${index}`, 4] as const);
    const folder = await tinyAdapter({ config: { alpha_pattern: Object.fromEntries(patterns.slice(0, 200)) } });
    expect(await message(folder)).toBeUndefined();
    const many = await tinyAdapter({ config: { alpha_pattern: Object.fromEntries(patterns) } });
    expect(await message(many)).toContain("matching the expressions takes more than 131072 steps");
    const long = `${"(?:.*.*.*)*".repeat(900)}!`;
    expect(await message(await tinyAdapter({ config: { alpha_pattern: { [long]: 1 } } }))).toContain("steps");
  });

  test("are refused before large expressions are kept", async () => {
    const large = await tinyAdapter({ config: { alpha_pattern: { "(?:(?:x{999}){999}){999}": 1 } } });
    expect(await message(large)).toContain("has more than 65536 parts");
    const patterns = Array.from({ length: 60 }, (_, index) => [`(?:x{99}){99}|${index}`, 4] as const);
    const many = await tinyAdapter({ config: { alpha_pattern: Object.fromEntries(patterns) } });
    expect(await message(many)).toContain("takes more than 524288 steps");
    const long = await tinyAdapter({ config: { note: "x".repeat(1 << 20) } });
    expect(await message(long)).toContain("expected at most 1048576");
  });

  test("hold more tensors than the model has modules", async () => {
    const folder = await tinyAdapter();
    for (const [count, problem] of [
      [100, `changes more modules than the ${7 * model.config.numLayers + 1} that the model has`],
      [300_000, "that are read"],
    ] as const) {
      const entries = Array.from({ length: count }, (_, index) => {
        const data_offsets = [4 * index, 4 * index + 4];
        return [`base_model.model.m${index}.lora_A.weight`, { dtype: "F32", shape: [1], data_offsets }] as const;
      });
      const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(header.byteLength));
      await writeFile(join(folder, TENSORS), Buffer.concat([length, header, Buffer.alloc(4 * count)]));
      expect(await message(folder)).toContain(problem);
    }
  });
});
