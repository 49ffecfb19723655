// Loras of the served models: their names, which one a request gets by the name of the model or by `read_me.expert`,
// permissions to use them, and the folder that operators load from.

import { statSync } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import {
  describeValue,
  type Engine,
  type EngineInfo,
  errorChain,
  type ErrorLink,
  type GenerateChunk,
  type GeneratedToken,
  ReadMeError,
  rejectUnknownKeys,
} from "@readme-moe/core";
import { type ApiError, invalid, listNames, refusal, shownId } from "../http/errors.ts";
import { KeyRing, type Keys } from "./guard.ts";

/** Expert "none" of a model with loras: the model itself, without any change. */
const NO_EXPERT = "none";

interface ExpertId {
  readonly model: string;
  readonly expert: string;
}

export function joinExpertId({ model, expert }: ExpertId): string {
  return `${model}:${expert}`;
}

/** Splits a name at its last colon, since names of models may contain colons. @returns `undefined` if it has none */
export function splitExpertId(id: string): ExpertId | undefined {
  const colon = id.lastIndexOf(":");
  if (colon <= 0 || colon === id.length - 1) return undefined;
  return { model: id.slice(0, colon), expert: id.slice(colon + 1) };
}

/** Names that requests can use for models. */
export interface ModelNames {
  /** Other names of models, and of experts as `<model>:<expert>`. */
  readonly aliases: ReadonlyMap<string, string>;
  readonly isServed: (name: string) => boolean;
}

/** A model, or one of its experts. */
export interface NamedModel {
  readonly model: string;
  readonly expert: string | undefined;
}

/**
 * Finds what a client's name stands for: a model or its alias, or either with an expert. Whole names go first.
 *
 * @returns `undefined` where no model has that name; the expert need not exist
 */
export function namedModel(id: string, { aliases, isServed }: ModelNames): NamedModel | undefined {
  const name = aliases.get(id) ?? id;
  if (isServed(name)) return { model: name, expert: undefined };
  const split = splitExpertId(name);
  if (!split) return undefined;
  const model = aliases.get(split.model) ?? split.model;
  return isServed(model) ? { model, expert: split.expert } : undefined;
}

/** Lists all names of an expert: its model's name with the expert's first, then those with aliases. */
export function idsOfExpert({ model, expert }: ExpertId, names: ModelNames): readonly string[] {
  const ofModels = [model, ...aliasesOf(model, names)].map((name) => joinExpertId({ model: name, expert }));
  return [...new Set([...ofModels, ...names.aliases.keys()])].filter((id) => {
    const found = namedModel(id, names);
    return found?.model === model && found.expert === expert;
  });
}

export function aliasesOf(id: string, { aliases }: Pick<ModelNames, "aliases">): readonly string[] {
  return [...aliases].filter(([, of]) => of === id).map(([alias]) => alias);
}

/** Names that stand for something else wherever an expert is named. */
const RESERVED: ReadonlySet<string> = new Set([NO_EXPERT, "router"]);

/** Whether a new expert may have this name. */
export function isExpertName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name) && !RESERVED.has(name);
}

/** @param names - experts that the client may name */
export function unknownExpert({ model, expert }: ExpertId, names: readonly string[]): ApiError {
  const idOf = (name: string): string => joinExpertId({ model, expert: name });
  const id = idOf(shownId(expert));
  const known = names.length === 0 ? "it has no experts that can be named" : `known are ${listNames(names.map(idOf))}`;
  return modelNotFound(`The model \`${id}\` does not exist or you do not have access to it; ${known}.`);
}

/** Creates the error of a request whose expert was unloaded after the request had arrived. */
const expertGone = (expert: string): ApiError => modelNotFound(`The expert \`${expert}\` was unloaded.`);

const modelNotFound = (message: string): ApiError => refusal(404, "model_not_found", message, { param: "model" });

const adapterExists = (name: string): ApiError =>
  refusal(400, "adapter_exists", `The lora adapter '${name}' has already been loaded.`, {
    type: "InvalidUserInput",
    param: "lora_name",
  });

const adapterNotFound = (message: string, param: string): ApiError =>
  refusal(404, "adapter_not_found", message, { type: "NotFoundError", param });

const folderNotFound = (path: string): ApiError => adapterNotFound(`No adapter found for '${path}'.`, "lora_path");

const forbiddenPath = (): ApiError =>
  refusal(403, "forbidden_path", "Expected 'lora_path' to be a name below the server's folder of experts.", {
    param: "lora_path",
  });

const wrongName = (message: string): ApiError => refusal(400, "invalid_value", message, { param: "lora_name" });

export const namesModel = (id: string): ApiError =>
  wrongName(`Expected the name of an expert, but '${shownId(id)}' is the name of a model.`);

/** Whether a model's experts are changes of one dense model. */
function hasLoras(info: EngineInfo): boolean {
  return info.expertKind === "lora";
}

/** An expert that could not be loaded again after the engine had failed. */
export interface LostExpert {
  readonly expert: string;
  readonly causes: readonly ErrorLink[];
}

/**
 * The experts of one engine. Loads and unloads of the same name run one after the other, and those of other names at
 * the same time. What was loaded and unloaded holds also after the engine was opened again.
 */
class LiveExperts {
  readonly #engine: Engine;
  /** Paths of loaded experts, in the order in which they were loaded. */
  readonly #loaded = new Map<string, string>();
  /** Experts that were unloaded, or whose last requests are ending. A failed engine may still list them. */
  readonly #unloaded = new Set<string>();
  /** End of the last change of each name that has changes under way. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Names of the loras that a new request may use. */
  get names(): readonly string[] {
    const { info } = this.#engine;
    if (!hasLoras(info)) return [];
    // The first is the model itself, and names of unloaded experts are empty.
    return info.experts.slice(1).filter((name) => name !== "" && !this.#unloaded.has(name));
  }

  /** Names that a model's name can be joined with. "None" is one of them where the name alone means the router. */
  get addressable(): readonly string[] {
    const { names } = this;
    return names.length > 0 && this.#engine.info.hasRouter ? [NO_EXPERT, ...names] : names;
  }

  /**
   * Loads an expert, after earlier changes of its name have ended.
   *
   * @param path - its folder
   * @param signal - keeps a load that has not begun from beginning
   * @throws {ApiError} 400 where the engine takes no experts, or has one of this name
   * @throws {ReadMeError} when the folder cannot be taken, or the engine has failed
   */
  async load(name: string, path: string, signal: AbortSignal): Promise<void> {
    const engine = this.#changeable();
    await this.#inTurn(name, async () => {
      signal.throwIfAborted();
      if (this.names.includes(name)) throw adapterExists(name);
      await engine.addExpert(name, path);
      this.#loaded.set(name, path);
      this.#unloaded.delete(name);
    });
  }

  /**
   * Unloads an expert, after earlier changes of its name have ended. New requests cannot use it from then on.
   *
   * @returns a promise that resolves when its running requests have ended
   * @throws {ApiError} 400 where the engine takes no experts; 404 where it has none of this name
   */
  async unload(name: string, signal: AbortSignal): Promise<void> {
    const engine = this.#changeable();
    await this.#inTurn(name, async () => {
      signal.throwIfAborted();
      if (!this.names.includes(name)) throw adapterNotFound(`The lora adapter '${name}' cannot be found.`, "lora_name");
      const path = this.#loaded.get(name);
      this.#loaded.delete(name);
      this.#unloaded.add(name);
      try {
        await engine.removeExpert(name);
      } catch (error) {
        // A failed engine has lost the expert, and does not get it again.
        if (error instanceof ReadMeError && error.code === "ERR_ENGINE_FAILED") return;
        if (path !== undefined) this.#loaded.set(name, path);
        this.#unloaded.delete(name);
        throw error;
      }
    });
  }

  /**
   * Gives an engine that was opened again the experts that it had.
   *
   * @returns those that it does not take any more, which are forgotten
   * @throws {ReadMeError} when the engine fails meanwhile
   */
  async restore(): Promise<readonly LostExpert[]> {
    const engine = this.#engine;
    if (!hasLoras(engine.info)) return [];
    const has = (name: string): boolean => engine.info.experts.includes(name);
    // One after the other, so that their order is the same as before.
    for (const name of this.#unloaded) {
      if (has(name)) await engine.removeExpert(name);
    }
    const lost: LostExpert[] = [];
    for (const [expert, path] of this.#loaded) {
      if (has(expert)) continue;
      try {
        await engine.addExpert(expert, path);
      } catch (error) {
        if (error instanceof ReadMeError && (error.code === "ERR_ENGINE_FAILED" || error.code === "ERR_DISPOSED")) {
          throw error;
        }
        this.#loaded.delete(expert);
        lost.push({ expert, causes: errorChain(error) });
      }
    }
    return lost;
  }

  /** Returns the engine. @throws {ApiError} 400 where it takes no experts */
  #changeable(): Engine {
    if (!hasLoras(this.#engine.info)) throw wrongName("This model takes no LoRA adapters.");
    return this.#engine;
  }

  async #inTurn(name: string, change: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(name);
    const turn = (before ?? Promise.resolve()).then(change);
    const ended = turn.catch(() => undefined);
    this.#turns.set(name, ended);
    try {
      await turn;
    } finally {
      if (this.#turns.get(name) === ended) this.#turns.delete(name);
    }
  }
}

const ofEngines = new WeakMap<Engine, LiveExperts>();

/** Returns the experts of an engine, which is the same object at every call. */
export function liveExperts(engine: Engine): LiveExperts {
  const found = ofEngines.get(engine) ?? new LiveExperts(engine);
  ofEngines.set(engine, found);
  return found;
}

/** Whether a client may name an expert of a model. */
export type MayName = (model: string, expert: string) => boolean;

/** Parts of a request that decide on the expert. */
export interface ExpertSource {
  readonly engine: Engine;
  /** Name of the served model, without an expert. */
  readonly servedName: string;
  /** Lora that the name of the model includes. */
  readonly namedExpert: string | undefined;
  /** Tells which experts exist for the client. */
  readonly mayName: MayName;
}

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

function unknown(wanted: string | number, all: readonly string[]): ApiError {
  const more = all.length > MAX_NAMES ? ` and ${all.length - MAX_NAMES} more` : "";
  const names = `${all.slice(0, MAX_NAMES).join(", ")}${more}`;
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

/** A client that names an expert. */
export interface ExpertUse {
  /** Name of the client's API key, on servers that ask for keys. */
  readonly key: string | undefined;
  /** Name of the served model. */
  readonly model: string;
  readonly expert: string;
}

/** Options of the loras of served models. */
export interface ExpertsOptions {
  /**
   * Decides whether a client may name an expert. For other clients the expert does not exist. The router chooses among
   * all experts in any case; `onRequest` can give every request an expert. @default all clients may name all experts
   */
  readonly permit?: ((use: ExpertUse) => boolean) | undefined;
  /**
   * Keys of operators, who may load and unload experts while the server runs. They are no keys of clients. Needs
   * `folder`. @default nobody: the routes do not exist
   */
  readonly operatorKeys?: Keys | undefined;
  /** Folder whose subfolders operators may load as experts. */
  readonly folder?: string | undefined;
}

interface Operators {
  readonly keys: Keys;
  readonly folder: ExpertFolder;
}

export interface ResolvedExpertsOptions {
  readonly permit: (use: ExpertUse) => boolean;
  /** Whether experts may be hidden from clients. */
  readonly arePrivate: boolean;
  /** `undefined` where experts cannot be loaded. */
  readonly operators: Operators | undefined;
}

/**
 * @param clientKeys - keys of clients, which operators' keys must differ from
 * @throws {TypeError} naming the option, the expectation and the value
 */
export function resolveExpertsOptions(options: ExpertsOptions = {}, clientKeys?: Keys): ResolvedExpertsOptions {
  rejectUnknownKeys("`experts`", options, ["permit", "operatorKeys", "folder"]);
  const { operatorKeys, folder } = options;
  const permit = checkedPermit(options.permit);
  const arePrivate = options.permit !== undefined;
  if (operatorKeys === undefined && folder === undefined) return { permit, arePrivate, operators: undefined };
  if (operatorKeys === undefined || folder === undefined) {
    throw new TypeError("Expected `experts.operatorKeys` and `experts.folder` together");
  }
  const ring = new KeyRing(operatorKeys, undefined, "experts.operatorKeys");
  if (Object.values(clientKeys ?? {}).some((key) => ring.nameOf(key) !== undefined)) {
    throw new TypeError("Expected `experts.operatorKeys` to differ from `keys`");
  }
  return { permit, arePrivate, operators: { keys: operatorKeys, folder: new ExpertFolder(folder) } };
}

function checkedPermit(permit: ExpertsOptions["permit"]): ResolvedExpertsOptions["permit"] {
  if (permit === undefined) return () => true;
  if (typeof permit !== "function") throw new TypeError("Expected `experts.permit` to be a function");
  return (use) => {
    const answer: unknown = permit(use);
    // A promise would count as true.
    if (typeof answer === "boolean") return answer;
    throw new TypeError(`Expected \`experts.permit\` to give true or false, got ${describeValue(answer)}`);
  };
}

/** Files of an expert's folder that are read. */
const FILES = ["adapter_config.json", "adapter_model.safetensors"] as const;

/** Whether a name consists of plain segments, so that it cannot lead out of a folder by itself. */
export function isPlainName(name: string): boolean {
  if (/[\0\\]/.test(name) || /^[A-Za-z]:/.test(name)) return false;
  return name.split("/").every((segment) => segment !== "" && segment !== "." && segment !== "..");
}

/** Finds folders of experts below one folder, and none outside it. */
export class ExpertFolder {
  readonly #path: string;

  /** @throws {TypeError} when it is not an existing folder */
  constructor(path: string) {
    const isFolder = typeof path === "string" && statSync(path, { throwIfNoEntry: false })?.isDirectory();
    if (!isFolder) {
      throw new TypeError(`Expected \`experts.folder\` to be an existing folder, got ${describeValue(path)}`);
    }
    this.#path = resolve(path);
  }

  /**
   * Finds the folder of an expert.
   *
   * @returns its path, without links
   * @throws {ApiError} 403 where the name or a link leads out of this folder; 404 where there is no expert
   */
  async find(name: string): Promise<string> {
    if (!isPlainName(name)) throw forbiddenPath();
    const root = await realpath(this.#path).catch(() => undefined);
    const found = root === undefined ? undefined : await realpath(join(root, name)).catch(() => undefined);
    if (root === undefined || found === undefined) throw folderNotFound(name);
    if (!isBelow(root, found)) throw forbiddenPath();
    await Promise.all(FILES.map((file) => checkFile(root, join(found, file), name)));
    return found;
  }

  /** Replaces paths of this machine in a message by what the operator called them. */
  hidden(message: string, found: string, name: string): string {
    return message.replaceAll(found, name).replaceAll(`${this.#path}${sep}`, "").replaceAll(this.#path, "the folder");
  }
}

/** Checks one file of an expert, which may be a link to another place below the folder. */
async function checkFile(root: string, path: string, name: string): Promise<void> {
  const real = await realpath(path).catch(() => undefined);
  if (real === undefined) throw folderNotFound(name);
  if (!isBelow(root, real)) throw forbiddenPath();
  // Reading a pipe or a device might never end.
  const entry = await stat(real).catch(() => undefined);
  if (!entry?.isFile()) throw folderNotFound(name);
}

function isBelow(root: string, path: string): boolean {
  const rest = relative(root, path);
  return rest !== "" && rest !== ".." && !rest.startsWith(`..${sep}`) && !isAbsolute(rest);
}
