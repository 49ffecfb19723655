// Answers questions to a folder of Markdown, in the browser page of the chatbot and over HTTP.

import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ReadMeEngine } from "@readme-moe/engine";
import { addressLine, serveChatbot, stopSignal } from "../chatbot/server/serve-chatbot.ts";
import { runProgram } from "../run-program.ts";
import { documentRoutes, openDocuments } from "./retrieval.ts";

const MINILM = "models/all-MiniLM-L6-v2";

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      documents: { type: "string", default: "docs" },
      encoder: { type: "string", default: existsSync(MINILM) ? MINILM : "all-minilm" },
      model: { type: "string", default: "qwen2.5:1.5b" },
      index: { type: "string" },
    },
  });
  const { documents: folder, index } = flags;
  await using encoder = await ReadMeEngine.open(flags.encoder);
  const chatbot = await serveChatbot({
    paths: [flags.model],
    precisions: ["int8"],
    maxNumBatchedSeqs: 4,
    host: "127.0.0.1",
    port: process.env["PORT"] === undefined ? undefined : Number(process.env["PORT"]),
    say: console.log,
    async documents(onStage) {
      const documents = await openDocuments({
        folder,
        encoder,
        index,
        onFile: (file, done, of) => onStage(`reading ${file}, ${done} of ${of} files of ${folder}`),
      });
      console.log(`${documents.numPieces} pieces of ${documents.numFiles} files of ${folder} can be searched`);
      const name = encoder.info.name ?? "encoder";
      return {
        title: basename(resolve(folder)),
        encoder: { name, engine: encoder },
        routes: documentRoutes(documents),
      };
    },
  });
  console.log(`${addressLine(chatbot)} (Ctrl-C stops it)`);
  await stopSignal();
  await chatbot.close();
}

await runProgram(main);
