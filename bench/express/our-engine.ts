// Opens the engine of our servers.

import type { OpenOptions } from "@readme-moe/engine";
import type { Precision } from "@readme-moe/model";
import type { SuiteContext } from "../kit/suite.ts";

/** Maximum of concurrent answers. */
export const PLACES = 16;

/** @param maxNumSeqs - maximum of concurrent answers */
export function ourEngine({ settings }: Pick<SuiteContext, "settings">, maxNumSeqs: number = PLACES): OpenOptions {
  const { threads, cacheFolder, set } = settings;
  const precision = (set["precision"] ?? "int8") as Precision; // the engine rejects unknown values
  return { threads, cacheFolder, precision, maxNumSeqs, prefixCacheBytes: 0 };
}
