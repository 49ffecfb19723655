// Loras over HTTP: which one a request gets, by the name of the model or by `read_me.expert`, and operators'
// routes in the shapes of vLLM that load and unload them while requests run.

import {
  describeValue,
  type Engine,
  type EngineInfo,
  type GenerateChunk,
  type GeneratedToken,
  ReadMeError,
} from "@readme-moe/core";
import {
  type ExpertFolder,
  expertGone,
  hasLoras,
  isExpertName,
  liveExperts,
  NO_EXPERT,
  type ResolvedExpertsOptions,
} from "../edge/experts.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { type ApiError, badRequest, engineError, invalid, modelReplaced } from "../http/errors.ts";
import { sendText } from "../http/reply.ts";
import { clientSignal, type Reply } from "../http/request.ts";
import type { LoadAdapterBody, UnloadAdapterBody } from "./request-schemas.ts";
import type { RequestParts, RequestScope } from "./request-scope.ts";

/** Parts of a request that decide on the expert. */
export type ExpertSource = Pick<RequestScope, "engine" | "servedName" | "namedExpert" | "mayName">;

/** Names that a message lists. */
const MAX_NAMES = 50;

/** Index of the model without a change among loras. Its name changes when the first expert is loaded. */
const PLAIN = 0;

/**
 * Returns the expert of a request's tokens, or `undefined` for the engine's own choice. Loras are returned
 * by name, since the index of an unloaded one is used again.
 *
 * @param wanted - `read_me.expert` of the body
 * @throws {ApiError} 400 naming the experts that the client may name, when it names another one, or two
 */
export function chosenExpert(wanted: string | number | undefined, source: ExpertSource): string | number | undefined {
  const { engine, namedExpert } = source;
  if (!hasLoras(engine.info)) return wanted === undefined ? undefined : checkedExpert(wanted, engine.info);
  const expert = wanted === undefined ? namedExpert : loraExpert(wanted, source);
  if (namedExpert !== undefined && expert !== namedExpert) {
    const got = describeValue(wanted);
    throw invalid("read_me.expert", `expected ${namedExpert}, which \`model\` names, got ${got}`);
  }
  return expert === NO_EXPERT ? PLAIN : expert;
}

function checkedExpert(wanted: string | number, { experts, hasRouter }: EngineInfo): string | number {
  const isKnown = typeof wanted === "number" ? wanted < experts.length : experts.includes(wanted);
  if (isKnown || (wanted === "router" && hasRouter)) return wanted;
  throw unknown(wanted, experts);
}

/** Returns the name of a lora that the client may name, "none", or "router". */
function loraExpert(wanted: string | number, { engine, servedName, mayName }: ExpertSource): string {
  const { experts, hasRouter } = engine.info;
  if (wanted === "router" && hasRouter) return wanted;
  const name = typeof wanted === "number" ? experts[wanted] : wanted;
  if (name === NO_EXPERT || name === experts[PLAIN]) return NO_EXPERT;
  const { names } = liveExperts(engine);
  if (name !== undefined && names.includes(name) && mayName(servedName, name)) return name;
  throw unknown(wanted, [NO_EXPERT, ...names.filter((one) => mayName(servedName, one))]);
}

function unknown(wanted: string | number, known: readonly string[]): ApiError {
  const more = known.length > MAX_NAMES ? ` and ${known.length - MAX_NAMES} more` : "";
  const names = `${known.slice(0, MAX_NAMES).join(", ")}${more}`;
  return invalid("read_me.expert", `expected one of ${names}, got ${describeValue(wanted)}`);
}

/** Returns the name of a request's checked expert, or `undefined` where the router or the engine's options decide. */
export function expertName(expert: string | number | undefined, info: EngineInfo): string | undefined {
  if (expert === PLAIN && hasLoras(info)) return NO_EXPERT;
  const name = typeof expert === "number" ? info.experts[expert] : expert;
  return name !== undefined && info.experts.includes(name) ? name : undefined;
}

/** Whether an expert can be hidden from clients: a change of a dense model can. */
export function isPrivateExpert(expert: string | undefined, info: EngineInfo): boolean {
  return expert !== undefined && expert !== NO_EXPERT && hasLoras(info);
}

/**
 * Returns the names of a model's experts by index, as they are when it is called. Loras that the client may
 * not name have no name, as those that were unloaded.
 */
export function seenExperts({ engine, servedName, mayName }: ExpertSource): readonly string[] {
  const { info } = engine;
  if (!hasLoras(info)) return [...info.experts];
  return info.experts.map((name, index) => (index === PLAIN || mayName(servedName, name) ? name : ""));
}

/** Returns a piece without the experts of tokens whose names are not seen. */
export function withSeenRoutes<Piece extends Pick<GenerateChunk, "tokens">>(
  piece: Piece,
  seen: readonly string[],
): Piece {
  const tokens = piece.tokens.map((token): GeneratedToken => {
    if (token.expert === undefined || seen[token.expert]) return token;
    const { expert: _, ...rest } = token;
    return rest;
  });
  return { ...piece, tokens };
}

/** Translates an engine's refusal of an expert that was unloaded after the request had arrived. */
export function goneError(error: unknown, engine: Engine, expert: string | number | undefined): unknown {
  if (typeof expert !== "string" || !(error instanceof TypeError || error instanceof RangeError)) return error;
  if (!hasLoras(engine.info) || expert === "router") return error;
  // The engine's own message lists all experts.
  const isAbout = error.message.startsWith("Expected `expert` ");
  return isAbout || !liveExperts(engine).names.includes(expert) ? expertGone(expert) : error;
}

/** Largest body of these routes. */
export const OPERATOR_BODY_BYTES: number = 16 << 10;

const NAME_RULE =
  "expected a name of up to 64 letters, digits, dots, hyphens and underscores, other than none and router";

export async function loadAdapter(
  { serving: { models, experts }, response }: RequestParts,
  { lora_name: name, lora_path: path }: LoadAdapterBody,
): Promise<void> {
  await change(models, name, async (engine, expert) => {
    if (!isExpertName(expert)) throw invalid("lora_name", NAME_RULE);
    const folder = folderOf(experts);
    const found = await folder.find(path);
    try {
      await liveExperts(engine).load(expert, found, clientSignal(response));
    } catch (error) {
      throw refusedFolder(error, (message) => folder.hidden(message, found, path));
    }
  });
  succeed(response, `LoRA adapter '${name}' added successfully.`);
}

export async function unloadAdapter(
  { serving: { models }, response }: RequestParts,
  { lora_name: name }: UnloadAdapterBody,
): Promise<void> {
  await change(models, name, (engine, expert) => liveExperts(engine).unload(expert, clientSignal(response)));
  succeed(response, `LoRA adapter '${name}' removed successfully.`);
}

function folderOf({ operators }: ResolvedExpertsOptions): ExpertFolder {
  if (!operators?.folder) throw new TypeError("Expected the server to have a folder of experts");
  return operators.folder;
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

function succeed(response: Reply, message: string): void {
  sendText(response, `Success: ${message}`, "text/plain; charset=utf-8");
}
