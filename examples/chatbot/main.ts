// `npm run chatbot`: opens models, builds the page, and serves both until it is told to stop.

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pocketExperts, POCKET } from "../pocket-experts.ts";
import { buildPage } from "./server/build-page.ts";
import { chatbot } from "./server/chatbot.ts";
import { openModels, type PrecisionName } from "./server/open-models.ts";

const HELP = `Usage: npm run chatbot -- [options]

  --model <path>       a folder or GGUF file; may be given several times (default: the pocket model's two forms)
  --precision <name>   fp32, int8 or int4; may be given several times (default: int8)
  --memory-mb <number> for experts of each model in int8 (default: a third of them)
  --batch <number>     sequences in one step at most; a scheduler chooses which (default: 4)
  --port <number>      (default: 8484)
  --host <address>     (default: 127.0.0.1)`;

async function main(): Promise<void> {
  const flags = readFlags();
  if (flags.help) {
    console.log(HELP);
    return;
  }
  const paths = flags.model ?? [await pocketExperts(), POCKET];
  const models = await openModels({ ...flags, paths, precisions: flags.precision });
  const pageFolder = join(import.meta.dirname, "dist");
  await buildPage(pageFolder);
  const { app, served } = chatbot({ models, pageFolder });
  const server = createServer(app).listen(flags.port, flags.host);
  await once(server, "listening");
  console.log(`Chat at http://${flags.host}:${(server.address() as AddressInfo).port} (Ctrl-C ends)`);
  await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
  await served.drain({ deadlineMs: 2000 });
  server.close();
  server.closeAllConnections();
}

function readFlags() {
  const { values } = parseArgs({
    options: {
      model: { type: "string", multiple: true },
      precision: { type: "string", multiple: true, default: ["int8"] },
      "memory-mb": { type: "string" },
      batch: { type: "string", default: "4" },
      port: { type: "string", default: "8484" },
      host: { type: "string", default: "127.0.0.1" },
      help: { type: "boolean", default: false },
    },
  });
  const precision = values.precision.map((name): PrecisionName => {
    if (name === "fp32" || name === "int8" || name === "int4") return name;
    throw new TypeError(`Expected --precision to be fp32, int8 or int4, got "${name}"`);
  });
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new RangeError("Expected --port to be a port");
  const memoryMb = values["memory-mb"] === undefined ? undefined : Number(values["memory-mb"]);
  if (memoryMb !== undefined && !(memoryMb > 0)) throw new RangeError("Expected --memory-mb to be more than 0");
  const memoryBytes = memoryMb === undefined ? undefined : Math.floor(memoryMb * 1e6);
  const maxNumBatchedSeqs = Number(values.batch);
  if (!Number.isInteger(maxNumBatchedSeqs) || maxNumBatchedSeqs < 1 || maxNumBatchedSeqs > 32) {
    throw new RangeError("Expected --batch to be from 1 to 32");
  }
  return { ...values, precision, port, memoryBytes, maxNumBatchedSeqs };
}

await main();
