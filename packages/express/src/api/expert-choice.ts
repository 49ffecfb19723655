// Expert of a request: by the name of the model, or by `read_me.expert`.

import { describeValue, type Engine, type EngineInfo, type GenerateChunk, type GeneratedToken } from "@readme-moe/core";
import { expertGone, hasLowRankExperts, liveExperts, NO_EXPERT } from "../edge/experts/live-experts.ts";
import { invalid, type ApiError } from "../http/errors.ts";
import type { Exchange } from "./exchange.ts";

/** Parts of an exchange that decide on the expert. */
export type ExpertSource = Pick<Exchange, "engine" | "servedName" | "namedExpert" | "mayName">;

/** Names that a message lists. */
const MAX_NAMES = 50;

/** Index of the model without a change among low-rank experts. Its name changes when the first expert is loaded. */
const PLAIN = 0;

/**
 * Returns the expert of a request's tokens, or `undefined` for the engine's own choice. Low-rank experts are returned
 * by name, since the index of an unloaded one is used again.
 *
 * @param wanted - `read_me.expert` of the body
 * @throws {ApiError} 400 naming the experts that the client may name, when it names another one, or two
 */
export function chosenExpert(wanted: string | number | undefined, source: ExpertSource): string | number | undefined {
  const { engine, namedExpert } = source;
  if (!hasLowRankExperts(engine.info)) return wanted === undefined ? undefined : checkedExpert(wanted, engine.info);
  const expert = wanted === undefined ? namedExpert : lowRankExpert(wanted, source);
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

/** Returns the name of a low-rank expert that the client may name, "none", or "router". */
function lowRankExpert(wanted: string | number, { engine, servedName, mayName }: ExpertSource): string {
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
  if (expert === PLAIN && hasLowRankExperts(info)) return NO_EXPERT;
  const name = typeof expert === "number" ? info.experts[expert] : expert;
  return name !== undefined && info.experts.includes(name) ? name : undefined;
}

/** Whether an expert can be hidden from clients: a change of a dense model can. */
export function isPrivateExpert(expert: string | undefined, info: EngineInfo): boolean {
  return expert !== undefined && expert !== NO_EXPERT && hasLowRankExperts(info);
}

/**
 * Returns the names of a model's experts by index, as they are when it is called. Low-rank experts that the client may
 * not name have no name, as those that were unloaded.
 */
export function seenExperts({ engine, servedName, mayName }: ExpertSource): readonly string[] {
  const { info } = engine;
  if (!hasLowRankExperts(info)) return [...info.experts];
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
  if (!hasLowRankExperts(engine.info) || expert === "router") return error;
  // The engine's own message lists all experts.
  const isAbout = error.message.startsWith("Expected `expert` ");
  return isAbout || !liveExperts(engine).names.includes(expert) ? expertGone(expert) : error;
}
