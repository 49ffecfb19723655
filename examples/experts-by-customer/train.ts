// Trains an expert for each customer on its texts, and a router that chooses among them.

import { join } from "node:path";
import { runCli } from "readme-moe";
import { CUSTOMERS } from "./customers.ts";

/** @param out - folder that gets the experts */
export async function trainExperts(model: string, out: string, more: readonly string[] = []): Promise<void> {
  const texts = Object.values(CUSTOMERS).map(
    ({ expert }) => `${expert}=${join(import.meta.dirname, "texts", expert)}.jsonl`,
  );
  const flags = ["--experts", "low-rank", "--tokens", "36000", "--no-rival", "--data", ...texts, "--out", out];
  const code = await runCli(["tune", model, ...flags, ...more]);
  if (code !== 0) throw new Error(`Training ended with ${code}`);
}
