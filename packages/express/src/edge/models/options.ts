import { integerOption, ReadMeEmitter, rejectUnknownKeys } from "@readme-moe/core";
import type { Request } from "express";
import { resolveRestartOptions, type RestartOptions, type RestartPolicy } from "./restart-policy.ts";

/** The request that a model is wanted for. */
export interface Asking {
  readonly request: Request;
  readonly body: unknown;
}

/**
 * Decides which model answers: for a dense and a refactored form side by side, for a share of the traffic, by tenant.
 * Called with the name that the client gave, aliases not resolved.
 *
 * @returns a name that is served, or `undefined` for the one that the client gave
 */
export type ShareTraffic = (name: string | undefined, about: Asking) => string | undefined;

/** Of `ServedModels`: names, which engine answers them, and what happens when one fails. */
export interface ServedModelsOptions {
  /** Other names of models, `{ alias: name }`. */
  readonly aliases?: Readonly<Record<string, string>> | undefined;
  /** Which model answers when a request names none. @default the only one, where there is only one */
  readonly defaultModel?: string | undefined;
  readonly share?: ShareTraffic | undefined;
  /** Opens engines again that have failed, if they have a method `restart`. @default no */
  readonly restart?: boolean | RestartOptions | undefined;
  /**
   * Requests in a row that an engine fails, each begun after the one before had failed, until it counts as not ready. With
   * `restart` it is opened again then. @default 3
   */
  readonly maxFailures?: number | undefined;
  /** Where `model:swapped`, `request:failed` and what becomes of engines is told. @default a bus of its own */
  readonly events?: ReadMeEmitter | undefined;
}

export interface ResolvedServedModelsOptions {
  readonly aliases: ReadonlyMap<string, string>;
  readonly defaultModel: string | undefined;
  readonly share: ShareTraffic | undefined;
  readonly restart: RestartPolicy | undefined;
  readonly maxFailures: number;
  readonly events: ReadMeEmitter;
}

const NAMES = ["aliases", "defaultModel", "share", "restart", "maxFailures", "events"] as const;

/** @throws {TypeError} naming the option, what was expected and what came */
export function resolveServedModelsOptions(
  options: ServedModelsOptions,
  names: readonly string[],
): ResolvedServedModelsOptions {
  rejectUnknownKeys("served models", options, NAMES);
  const { defaultModel, share, restart = false } = options;
  if (names.length === 0) throw new TypeError("Expected `models` to have at least one engine");
  const aliases = new Map(Object.entries(options.aliases ?? {}));
  const served = (option: string, name: string): void => {
    if (!names.includes(name)) throw new TypeError(`Expected ${option} to be a model that is served, got \`${name}\``);
  };
  for (const [alias, name] of aliases) {
    served(`alias \`${alias}\``, name);
    if (names.includes(alias)) throw new TypeError(`Expected alias \`${alias}\` to be no model's name`);
  }
  if (defaultModel !== undefined) served("`defaultModel`", defaultModel);
  if (share !== undefined && typeof share !== "function") throw new TypeError("Expected `share` to be a function");
  return {
    aliases,
    defaultModel: defaultModel ?? (names.length === 1 ? names[0] : undefined),
    share,
    restart: restart === false ? undefined : resolveRestartOptions(restart === true ? {} : restart),
    maxFailures: integerOption("maxFailures", options.maxFailures ?? 3, 1),
    events: options.events ?? new ReadMeEmitter(),
  };
}
