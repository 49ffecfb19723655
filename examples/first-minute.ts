// The program of `npm start`: refactors the embedded pocket model, continues a few texts with the result, and opens a
// chat.

import { parseArgs } from "node:util";
import { serveChatbot, stopSignal } from "./chatbot/server/serve-chatbot.ts";
import { openBrowser } from "./open-browser.ts";
import { pocketExperts, POCKET, run, type PocketExpertsOptions } from "./pocket-experts.ts";

const HELP = `Usage: npm start -- [options]

  --exit           end when the chat is ready instead of serving it until Ctrl-C (also: README_MOE_START_EXIT=1)
  --port <number>  port of the chat (default: 8484, or any free port if that is taken)`;
const PROMPTS = ["The ship was", "import os\n\ndef main("];

/** @param options - options of `pocketExperts`, which runs first */
export async function firstMinute(args: readonly string[], options: PocketExpertsOptions = {}): Promise<void> {
  const { exit, help, port } = readFlags(args);
  if (help) {
    console.log(HELP);
    return;
  }
  const experts = await pocketExperts(options);
  console.log("\nThe pocket model is too small to make sense, but each text is routed to its own expert:\n");
  await run("generate", experts, "--max-new-tokens", "32", "--prompt", ...PROMPTS);
  console.log("\nOpening a chat with it and with the dense model that it was made from …");
  const paths = [experts, POCKET];
  const chatbot = await serveChatbot({ paths, precisions: ["int8"], maxNumBatchedSeqs: 4, host: "127.0.0.1", port });
  console.log(`Chat at ${chatbot.url}${exit ? "" : " (Ctrl-C stops it)"}`);
  if (!exit) {
    openBrowser(chatbot.url);
    await stopSignal();
  }
  await chatbot.close();
}

function readFlags(args: readonly string[]) {
  const options = { exit: { type: "boolean" }, help: { type: "boolean" }, port: { type: "string" } } as const;
  const {
    exit = process.env["README_MOE_START_EXIT"] === "1",
    help,
    port,
  } = parseArgs({ args: [...args], options }).values;
  if (port === undefined) return { exit, help, port };
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535)
    throw new RangeError("Expected --port to be a port number, from 0 to 65535");
  return { exit, help, port: Number(port) };
}
