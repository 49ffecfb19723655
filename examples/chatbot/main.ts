// The program of `npm run chatbot`: opens models, builds the page, and serves both until a signal stops it.

import { basename } from "node:path";
import { parseArgs } from "node:util";
import { pocketExperts, POCKET } from "../pocket-experts.ts";
import { runProgram } from "../run-program.ts";
import type { PrecisionName } from "./server/open-models.ts";
import { addressLine, serveChatbot, stopSignal } from "./server/serve-chatbot.ts";

const HELP = `Usage: npm run chatbot -- [options]

  --model <model>      folder, GGUF file or name, such as qwen3:0.6b; may be given several times
                       (default: the pocket model, refactored and dense)
  --precision <name>   fp32, int8 or int4; may be given several times (default: int8)
  --lora <name=folder> adapter or set of loras over dense models; may be given several times
  --memory-mb <number> memory for each model's experts in int8 (default: a third of their size)
  --batch <number>     most sequences in one step, chosen by a scheduler (default: 4)
  --fleet <url>        let the workers of this fleet run the models: redis://host:port (default: README_MOE_FLEET)
  --port <number>      port to listen on (default: 8484, or any free port if that is taken)
  --host <address>     address to listen on (default: 127.0.0.1)`;

async function main(): Promise<void> {
  const flags = readFlags();
  if (flags.help) {
    console.log(HELP);
    return;
  }
  const paths = flags.model ?? [await pocketExperts(), POCKET];
  const chatbot = await serveChatbot({ ...flags, paths, precisions: flags.precision, say: console.log });
  console.log(`${addressLine(chatbot)} (Ctrl-C stops it)`);
  await stopSignal();
  await chatbot.close();
}

function readFlags() {
  const { values } = parseArgs({
    options: {
      model: { type: "string", multiple: true },
      precision: { type: "string", multiple: true, default: ["int8"] },
      lora: { type: "string", multiple: true, default: [] },
      "memory-mb": { type: "string" },
      batch: { type: "string", default: "4" },
      fleet: { type: "string" },
      port: { type: "string" },
      host: { type: "string", default: "127.0.0.1" },
      help: { type: "boolean", default: false },
    },
  });
  const precision = values.precision.map((name): PrecisionName => {
    if (name === "fp32" || name === "int8" || name === "int4") return name;
    throw new TypeError(`Expected --precision to be fp32, int8 or int4, got "${name}"`);
  });
  const port = values.port === undefined ? undefined : Number(values.port);
  if (port !== undefined && (!Number.isInteger(port) || port < 0 || port > 65_535)) {
    throw new RangeError("Expected --port to be a port number, from 0 to 65535");
  }
  const memoryMb = values["memory-mb"] === undefined ? undefined : Number(values["memory-mb"]);
  if (memoryMb !== undefined && !(memoryMb > 0)) throw new RangeError("Expected --memory-mb to be more than 0");
  const memoryBytes = memoryMb === undefined ? undefined : Math.floor(memoryMb * 1e6);
  const maxNumBatchedSeqs = Number(values.batch);
  if (!Number.isInteger(maxNumBatchedSeqs) || maxNumBatchedSeqs < 1 || maxNumBatchedSeqs > 32) {
    throw new RangeError("Expected --batch to be from 1 to 32");
  }
  const fleet = values.fleet ?? process.env["README_MOE_FLEET"];
  return { ...values, fleet, precision, port, memoryBytes, maxNumBatchedSeqs, loras: lorasOf(values.lora) };
}

/** Reads `NAME=FOLDER` or a folder, whose own name counts then. */
function lorasOf(texts: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name = basename(text), folder = text] = /^([^=/\\]+)=(.+)$/.exec(text) ?? [];
      return [name, folder];
    }),
  );
}

await runProgram(main);
