// Damaged adapters: whatever their bytes are, they are taken, or refused by the file's name.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { type Model, openLowRankExpert, openModel } from "@readme-moe/model";
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
    await (await openLowRankExpert(folder, "legal", model)).close();
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
      config: { rank_pattern: { "up_.*": 4 }, alpha_pattern: { "(?:a|b)": 2 }, exclude_modules: "x[a-b]+" },
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
    const fields = [...Object.keys(good), "rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform"];
    fields.push(
      "layers_pattern",
      "use_rslora",
      "bias",
      "modules_to_save",
      "init_lora_weights",
      "use_dora",
      "__proto__",
    );
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
