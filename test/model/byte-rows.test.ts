// Tables that are stored as signed bytes with a scale for each row, and routers that have one.

import { join } from "node:path";
import {
  byteRowTensors,
  decodeFloats,
  fromByteRows,
  openExpertSet,
  SafetensorsFile,
  toByteRows,
  writeExpertSet,
  writeSafetensors,
  type ExpertSetContent,
} from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { tableRef } from "../../packages/model/src/weights/computed-tensors.ts";
import * as fc from "../support/fast-check.ts";
import { randomNormal, randomInteger, seededRandom } from "../support/random.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { base } from "../support/set-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinySet } from "../support/tiny-set.ts";

const TABLE = "embed.weight";

describe("rounded rows", () => {
  test("are off by at most half a step of their row, and keep their largest number and zeros", () => {
    const row = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 3, maxLength: 3 });
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 5 }), (rows) => {
        const values = Float32Array.from(rows.flat());
        const stored = toByteRows(values, 3);
        const back = fromByteRows(stored);
        for (const [index, given] of rows.entries()) {
          const largest = Math.max(...given.map(Math.abs));
          const own = back.subarray(3 * index, 3 * index + 3);
          // The step itself is rounded to float32, whose smallest number is 2^-149.
          const bound = largest * (0.5 / 127 + 1e-6) + 128 * 2 ** -149;
          own.forEach((value, i) => expect(Math.abs(value - given[i]!)).toBeLessThanOrEqual(bound));
          own.forEach((value, i) =>
            expect(value).toBe(Math.fround(stored.codes[3 * index + i]! * stored.scales[index]!)),
          );
          expect(given.every((value, i) => value !== 0 || own[i] === 0)).toBe(true);
        }
      }),
    );
  });

  test("are read from a file whole and in ranges, as the same numbers", async () => {
    const [file, values] = [join(await temporaryFolder(), "table.safetensors"), normals(40 * 6)];
    const stored = toByteRows(values, 6);
    await writeSafetensors(file, byteRowTensors(TABLE, stored));
    const store = await SafetensorsFile.open(file);
    const table = tableRef(store, TABLE, [40, 6]);
    expect(table.store.info(TABLE)).toMatchObject({ type: "F32", shape: [40, 6], byteLength: 4 * 240 });
    const whole = await table.store.readFloats(TABLE);
    expect(whole).toEqual(fromByteRows(stored));
    expect(decodeFloats(await table.store.readBytes(TABLE), "F32")).toEqual(whole);
    expect(await table.store.readFloats(TABLE, { from: 7, to: 12 })).toEqual(whole.subarray(42, 72));
    await expect(table.store.readFloats(TABLE, { from: 7, to: 41 })).rejects.toThrow(RangeError);
    expect(() => tableRef(store, TABLE, [40, 7])).toThrow("has shape [40, 6], the config promises [40, 7]");
    await store.close();
  });

  test("need their scales", async () => {
    const [codes] = byteRowTensors(TABLE, toByteRows(normals(8), 2));
    const others = byteRowTensors(TABLE, toByteRows(normals(6), 2)).slice(1);
    for (const [scales, problem] of [
      [[], 'has no tensor "embed.scales"'],
      [others, "tensor embed.scales has shape [3], the config promises [4]"],
    ] as const) {
      const file = join(await temporaryFolder(), "table.safetensors");
      await writeSafetensors(file, [codes!, ...scales]);
      const store = await SafetensorsFile.open(file);
      const opening = (async () => tableRef(store, TABLE, [4, 2]))();
      await expectReadMeError(opening, "ERR_MODEL_INVALID", problem);
      await store.close();
    }
  });
});

test("a router with a rounded embedding chooses the experts of the exact one", async () => {
  const exact = await tinySet(base.config, Object.fromEntries(["a", "b", "c"].map((name) => [name, {}])), 5);
  const [first, ...others] = exact.router?.tensors ?? [];
  const [vocabSize = 0, width = 0] = first?.shape ?? [];
  const rows = toByteRows(decodeFloats(await first!.bytes(), "F32"), width);
  const router = { config: exact.router!.config, tensors: [...byteRowTensors(TABLE, rows), ...others] };
  const random = seededRandom(3);
  const texts = Array.from({ length: 8 }, () => Array.from({ length: 250 }, () => randomInteger(random, vocabSize)));
  const [expected, routes] = [await routesOf(exact, texts), await routesOf({ ...exact, router }, texts)];
  const same = routes.filter((expert, at) => expert === expected[at]).length;
  expect(new Set(expected).size).toBeGreaterThan(1);
  expect(same / routes.length).toBeGreaterThanOrEqual(0.99);
});

async function routesOf(content: ExpertSetContent, texts: readonly (readonly number[])[]): Promise<readonly number[]> {
  const folder = join(await temporaryFolder(), "set");
  await writeExpertSet(folder, content);
  const set = await openExpertSet(folder, base.config);
  const router = await KernelRouter.open({ ...set!, path: folder }, { threads: 1 });
  const routes = await router.route(texts.map((tokenIds) => ({ state: router.start(), tokenIds })));
  await router.dispose();
  await set?.close();
  return routes.flatMap(({ experts }) => [...experts]);
}

function normals(length: number): Float32Array {
  const random = seededRandom(1);
  return Float32Array.from({ length }, () => randomNormal(random));
}
