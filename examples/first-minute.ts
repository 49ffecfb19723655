// What `npm start` does: refactors the embedded pocket model, and lets the result continue a few texts.

import { pocketExperts, run } from "./pocket-experts.ts";

const PROMPTS = ["The ship was", "import os\n\ndef main(", "In this paper, we"];

const experts = await pocketExperts();
console.log("\nThe pocket model babbles, but each text goes to its own expert:\n");
await run("generate", experts, "--max-new-tokens", "32", "--prompt", ...PROMPTS);
