// Operators' routes that load and unload low-rank experts while requests run, in the shapes of vLLM.

import { ReadMeError, type Engine } from "@readme-moe/core";
import type { ExpertFolder } from "../edge/experts/options.ts";
import { isExpertName, liveExperts } from "../edge/experts/live-experts.ts";
import { modelReplaced } from "../edge/refusals.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { badRequest, engineError, invalid } from "../http/errors.ts";
import type { Incoming, Reply } from "../http/types.ts";
import { clientSignal } from "../http/request.ts";
import { sendText } from "../http/reply.ts";
import { checkBody } from "./check-body.ts";
import { loadAdapterBody, unloadAdapterBody } from "./request-schemas.ts";

/** Largest body of these routes. */
export const OPERATOR_BODY_BYTES: number = 16 << 10;

const NAME_RULE =
  "expected a name of up to 64 letters, digits, dots, hyphens and underscores, other than none and router";

/** Models whose experts are changed, and the folder of new ones. */
export interface ExpertChanges {
  readonly models: ServedModels;
  readonly folder: ExpertFolder;
}

export async function loadAdapter(
  { models, folder }: ExpertChanges,
  request: Incoming,
  response: Reply,
): Promise<void> {
  const { lora_name: name, lora_path: path } = checkBody(loadAdapterBody, request.body);
  await change(models, name, async (engine, expert) => {
    if (!isExpertName(expert)) throw invalid("lora_name", NAME_RULE);
    const found = await folder.find(path);
    try {
      await liveExperts(engine).load(expert, found, clientSignal(response));
    } catch (error) {
      throw refusedFolder(error, (message) => folder.hidden(message, found, path));
    }
  });
  succeed(response, `LoRA adapter '${name}' added successfully.`);
}

export async function unloadAdapter(models: ServedModels, request: Incoming, response: Reply): Promise<void> {
  const { lora_name: name } = checkBody(unloadAdapterBody, request.body);
  await change(models, name, (engine, expert) => liveExperts(engine).unload(expert, clientSignal(response)));
  succeed(response, `LoRA adapter '${name}' removed successfully.`);
}

/** Changes an engine's experts, and keeps the engine from being disposed meanwhile. */
async function change(
  models: ServedModels,
  id: string,
  make: (engine: Engine, expert: string) => Promise<void>,
): Promise<void> {
  const lease = models.leaseForChange(id);
  const { name, engine, expert } = lease;
  try {
    await make(engine, expert);
    const isServed = models.list().some((served) => served.name === name && served.engine === engine);
    if (!isServed) throw modelReplaced(name);
  } catch (error) {
    throw engineError(error, "lora_path", engine.info);
  } finally {
    lease.release();
  }
}

/** Codes that say that the folder cannot be taken. */
const REFUSALS: ReadonlySet<string> = new Set([
  "ERR_FILE_NOT_FOUND",
  "ERR_FILE_UNREADABLE",
  "ERR_FILE_CORRUPT",
  "ERR_MODEL_INVALID",
  "ERR_MODEL_UNSUPPORTED",
  "ERR_MEMORY",
]);

/** Turns an engine's refusal of an expert into status 400; other errors stay as they are. */
function refusedFolder(error: unknown, hidden: (message: string) => string): unknown {
  const isRefused = error instanceof ReadMeError && REFUSALS.has(error.code);
  if (!isRefused && !(error instanceof TypeError || error instanceof RangeError)) return error;
  // Without its cause, which would count as a failure of the server.
  return badRequest({ message: hidden(error.message), code: "adapter_refused", param: "lora_path" });
}

/** Answers as vLLM does, with a text. */
function succeed(response: Reply, message: string): void {
  sendText(response, `Success: ${message}`, "text/plain; charset=utf-8");
}
