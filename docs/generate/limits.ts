// Generates the table of the middleware's limits from the object that the code uses.

import { LIMITS, type Limit } from "@readme-moe/express";
import { code, table } from "./markdown.ts";

export async function limitsTable(): Promise<string> {
  const rows = Object.values<Limit>(LIMITS).map(({ of, value, unit, beyond, option, flag }) => [
    of,
    unit === "share" || unit === "" ? `${value}` : `${value.toLocaleString("en")} ${unit}`,
    beyond,
    [option, flag]
      .filter((name) => name !== undefined)
      .map((name) => code(name))
      .join(", "),
  ]);
  return table(["limit of", "value", "beyond it", "changed by"], rows);
}
