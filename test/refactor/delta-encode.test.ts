// Encoding tensors again for another size of the file.

import { join } from "node:path";
import { openModel } from "@readme-moe/model";
import { expect, test } from "vitest";
import { choose } from "../../packages/refactor/src/delta/allocate.ts";
import { BaseWeights } from "../../packages/refactor/src/delta/base-model.ts";
import { encodeTensors, type EncodedTensors } from "../../packages/refactor/src/delta/encode-tensors.ts";
import { findNeurons } from "../../packages/refactor/src/delta/neurons.ts";
import { planTensors, targetsOf } from "../../packages/refactor/src/delta/plan-tensors.ts";
import { Products } from "../../packages/refactor/src/linear-algebra/products.ts";
import { writeCut, writeDense } from "../support/cut-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const folder = await persistentFolder();
const onTensor = (): void => undefined;

test("tensors that are coded as before are not read again, and equal those that are coded anew", async () => {
  const [basePath, path] = [join(folder, "dense"), join(folder, "cut")];
  await writeDense(basePath);
  // Changes of low rank, so that both codings in integers are among what is chosen.
  await writeCut(path, { tuned: 0.02, rank: 3, sharedSize: 30 });
  const [base, model, products] = [await openModel(basePath), await openModel(path), await Products.open()];
  const context = { base: new BaseWeights(base), products, scales: undefined };
  const read = new Set<string>();
  const targets = targetsOf(model, await findNeurons(model, context.base, products)).map((target) => {
    const { file, input } = target;
    const bytes = (): Promise<Uint8Array> => {
      read.add(`${file}/${input.name}`);
      return input.bytes();
    };
    return { ...target, input: { ...input, bytes } };
  });
  const plans = await planTensors(targets, context, onTensor);
  const choices = plans.map((plan) => plan.choices);
  const sum = (of: (...sizes: number[]) => number): number =>
    choices.reduce((total, ways) => total + of(...ways.map(({ bytes }) => bytes)), 0);
  const [least, most] = [sum(Math.min), sum(Math.max)];
  const chosenAt = (share: number) => choose(choices, least + share * (most - least))!;
  const first = chosenAt(0.2);
  const encode = (chosen: typeof first, before?: EncodedTensors) =>
    encodeTensors(targets, chosen, context, { before, onTensor });

  let before = await encode(first);
  for (const share of [0.21, 0.3, 0.1, 0.2]) {
    const chosen = chosenAt(share);
    const anew = await encode(chosen);
    read.clear();
    const again = await encode(chosen, before);
    expect(again).toEqual(anew);
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
