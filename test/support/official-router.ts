// The router of the official fixture, and prompts for it.

import { openModel } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { fixture } from "./fixtures.ts";
import { randomInteger, seededRandom } from "./random.ts";

export const OFFICIAL = fixture("official-fused-residual");

export async function officialRouter(): Promise<KernelRouter & AsyncDisposable> {
  const model = await openModel(OFFICIAL);
  const router = await KernelRouter.open(model, { threads: 2 });
  return Object.assign(router, {
    [Symbol.asyncDispose]: async () => {
      await router.dispose();
      await model.close();
    },
  });
}

export function randomPrompts(count: number, seed: number): readonly (readonly number[])[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () =>
    Array.from({ length: 1 + randomInteger(random, 150) }, () => randomInteger(random, 128)),
  );
}
