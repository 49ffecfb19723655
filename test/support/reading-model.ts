// A tiny Read-ME model that reads text: random weights, and the pocket model's tokenizer.

import type { RunningModel } from "./running-model.ts";
import { WITH_TOKENIZER, writeTinyReadMe, type TinyOptions } from "./tiny-read-me.ts";

export async function writeReadingModel(path: string, options: TinyOptions = {}): Promise<void> {
  await writeTinyReadMe(path, { ...WITH_TOKENIZER, ...options });
}

/** The expert of each token, by the model's router. */
export async function routeOf(
  { router }: Pick<RunningModel, "router">,
  tokenIds: readonly number[],
): Promise<ArrayLike<number>> {
  const [route] = await router.route([{ state: router.start(), tokenIds }]);
  return route?.experts ?? [];
}
