// Tensors encoded again for another size of the file.

import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { BaseWeights } from "../../packages/refactor/src/adapter-file/base-weights.ts";
import { choose, leastBytes } from "../../packages/refactor/src/adapter-file/choose.ts";
import { encodeTensors } from "../../packages/refactor/src/adapter-file/encode-tensors.ts";
import { findNeurons } from "../../packages/refactor/src/adapter-file/part-neurons.ts";
import { planTensors } from "../../packages/refactor/src/adapter-file/plan-tensors.ts";
import { targetsOf } from "../../packages/refactor/src/adapter-file/targets.ts";
import { Products } from "../../packages/refactor/src/linear-algebra/products.ts";
import { writeCut, writeDense } from "../support/cut-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const nobody = (): void => undefined;

test("what is stored as before is not read again, and comes out as if it were", async () => {
  const [basePath, path] = [join(folder, "dense"), join(folder, "cut")];
  await writeDense(basePath);
  // Of few directions, so that both ways of coding are among what is chosen.
  await writeCut(path, { tuned: 0.02, rank: 3, sharedSize: 30 });
  const [base, model, products] = [await openModel(basePath), await openModel(path), await Products.open()];
  const weights = new BaseWeights(base);
  const read = new Set<string>();
  const targets = targetsOf(model, await findNeurons(model, weights)).map((target) => {
    const { file, input } = target;
    const bytes = (): Promise<Uint8Array> => {
      read.add(`${file}/${input.name}`);
      return input.bytes();
    };
    return { ...target, input: { ...input, bytes } };
  });
  const plans = await planTensors(targets, weights, products, undefined, nobody);
  const least = leastBytes(plans);
  const most = plans.reduce((sum, { choices }) => sum + Math.max(...choices.map(({ bytes }) => bytes)), 0);
  const chosenAt = (share: number) => choose(plans, least + share * (most - least))!;
  const encode = (chosen: ReturnType<typeof chosenAt>, before?: Awaited<ReturnType<typeof encodeTensors>>) =>
    encodeTensors(plans, chosen, weights, products, undefined, before, nobody);

  let before = await encode(chosenAt(0.2));
  for (const share of [0.21, 0.3, 0.1, 0.2]) {
    const chosen = chosenAt(share);
    const anew = await encode(chosen);
    read.clear();
    const again = await encode(chosen, before);
    const { payloads, entries, figures } = anew;
    expect({ ...again, tensors: [], tables: [] }).toEqual({ payloads, entries, figures, tensors: [], tables: [] });
    const isChanged = (index: number): boolean => before.tensors[index]!.how !== chosen.choices[index]!.how;
    const changed = targets.flatMap(({ file, input }, index) => (isChanged(index) ? [`${file}/${input.name}`] : []));
    expect(changed.length).toBeLessThan(targets.length);
    for (const name of read) expect(changed).toContain(name);
    before = again;
  }
  await products.dispose();
  await model.close();
  await base.close();
});
