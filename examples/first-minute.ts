// What `npm start` does: refactors the embedded pocket model, and lets the result continue a few texts.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { runCli } from "readme-moe";

const MODELS = join(import.meta.dirname, "..", "models");
const POCKET = join(MODELS, "pocket");
const EXPERTS = join(MODELS, "pocket-experts");
const DOMAINS = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
// A minute's worth; without these options it takes two, and the result is a little better.
const SHORT = ["--calibration-tokens", "6144", "--router-steps", "200"];
const PROMPTS = ["The ship was", "import os\n\ndef main(", "In this paper, we"];

async function run(...args: readonly string[]): Promise<void> {
  const code = await runCli(args);
  if (code !== 0) process.exit(code);
}

if (!existsSync(EXPERTS)) {
  console.log("Making one expert of each of seven kinds of text, and a router that chooses among them …\n");
  const data = DOMAINS.map((name) => join(POCKET, "calibration", `${name}.jsonl`));
  const unfinished = existsSync(`${EXPERTS}.unfinished`) ? ["--resume"] : [];
  await run("refactor", POCKET, "--out", EXPERTS, "--data", ...data, ...SHORT, ...unfinished);
}
console.log("\nThe pocket model babbles, but each text goes to its own expert:\n");
await run("generate", EXPERTS, "--max-new-tokens", "32", "--prompt", ...PROMPTS);
