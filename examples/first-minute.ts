// The program of `npm start`: opens a chat with a model that talks, or with the embedded pocket model and its experts
// where no other can be had.

import { parseArgs } from "node:util";
import { addressLine, serveChatbot, type ServeChatbotOptions, stopSignal } from "./chatbot/server/serve-chatbot.ts";
import { openBrowser } from "./open-browser.ts";
import { pocketExperts, POCKET, run, type PocketExpertsOptions } from "./pocket-experts.ts";
import { SHIPPED_EXPERTS, talkingModel, type TalkingModelOptions } from "./talking-model.ts";

const HELP = `Usage: npm start -- [options]

  --experts        open SmolLM2 with loras, whose colours the chat shows
  --pocket         take the embedded pocket model, which shows experts and produces nonsense
  --exit           end when the chat is ready instead of serving it until Ctrl-C (also: README_MOE_START_EXIT=1)
  --port <number>  port of the chat (default: 8484, or any free port if that is taken)`;
const NEXT = `
A model of 135 million weights writes fast and is often wrong. \`npm run chatbot -- --model qwen3:0.6b\` takes a larger one (640 MB);
docs/how-to/models.md says which there are and how much memory they need, and README.md goes on with a server of your own.`;
const PROMPTS = ["The ship was", "import os\n\ndef main("];

/** Options of `firstMinute`. */
export interface FirstMinuteOptions extends PocketExpertsOptions {
  readonly talking?: TalkingModelOptions | undefined;
}

/** @param args - command line of `npm start` */
export async function firstMinute(args: readonly string[], options: FirstMinuteOptions = {}): Promise<void> {
  const { exit, experts, help, pocket, port } = readFlags(args);
  if (help) {
    console.log(HELP);
    return;
  }
  const wanted = { ...(experts ? { experts: SHIPPED_EXPERTS } : {}), ...options.talking };
  const talking = pocket ? undefined : await talkingModels(wanted);
  const models = talking ?? { paths: await pocketPaths(options) };
  console.log("Opening a chat …");
  const common = { precisions: ["int8"], maxNumBatchedSeqs: 4, host: "127.0.0.1" } as const;
  const chatbot = await serveChatbot({ ...models, ...common, port, say: console.log });
  console.log(`${addressLine(chatbot)}${exit ? "" : " (Ctrl-C stops it)"}`);
  if (!exit) {
    if (talking !== undefined) console.log(NEXT);
    openBrowser(chatbot.url);
    await stopSignal();
  }
  await chatbot.close();
}

/** Models of a chat. */
type ChatModels = Pick<ServeChatbotOptions, "paths" | "loras">;

/** Returns the models of a chat that makes sense; `undefined` if none can be had. */
async function talkingModels(talking: TalkingModelOptions): Promise<ChatModels | undefined> {
  const found = await talkingModel(talking);
  if ("name" in found) return { paths: [found.name], loras: found.loras };
  console.log(`No model that talks: ${found.why}\nTaking the embedded pocket model instead.\n`);
  return undefined;
}

/** Makes the pocket model's experts, shows what they are, and returns them and the dense model. */
async function pocketPaths(options: PocketExpertsOptions): Promise<readonly string[]> {
  const experts = await pocketExperts(options);
  console.log("\nThe pocket model is too small to make sense, but each text is routed to its own expert:\n");
  await run("generate", experts, "--max-new-tokens", "32", "--prompt", ...PROMPTS);
  console.log("");
  return [experts, POCKET];
}

function readFlags(args: readonly string[]) {
  const options = {
    exit: { type: "boolean" },
    experts: { type: "boolean" },
    help: { type: "boolean" },
    pocket: { type: "boolean" },
    port: { type: "string" },
  } as const;
  const {
    exit = process.env["README_MOE_START_EXIT"] === "1",
    port,
    ...flags
  } = parseArgs({ args: [...args], options }).values;
  if (port !== undefined && (!/^\d{1,5}$/.test(port) || Number(port) > 65_535))
    throw new RangeError("Expected --port to be a port number, from 0 to 65535");
  return { ...flags, exit, port: port === undefined ? undefined : Number(port) };
}
