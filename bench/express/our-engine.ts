// The engine of our servers.

import type { OpenOptions } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import type { SuiteContext } from "../kit/suite.ts";

/** Answers at once, where a server wants to know. */
export const PLACES = 16;

/** @param maxNumSeqs - answers at once */
export function ourEngine({ settings }: Pick<SuiteContext, "settings">, maxNumSeqs: number = PLACES): OpenOptions {
  const { threads, cacheFolder, set } = settings;
  const precision = (set["precision"] ?? "int8") as Precision; // the engine refuses what it does not know
  return { threads, cacheFolder, precision, maxNumSeqs, prefixCacheBytes: 0 };
}
