// Expert of a request: by the name of the model, or by `read_me.expert`.

import { describeValue, type Engine, type EngineInfo } from "@readme-moe/core";
import { hasLowRankExperts, liveExperts } from "../edge/experts/live-experts.ts";
import { NO_EXPERT } from "../edge/experts/model-ids.ts";
import { expertGone } from "../edge/experts/refusals.ts";
import { invalid } from "../http/errors.ts";
import type { Exchange } from "./exchange.ts";

/** Parts of an exchange that decide on the expert. */
export type ExpertSource = Pick<Exchange, "engine" | "servedName" | "namedExpert" | "mayName">;

/**
 * Returns the expert of a request's tokens, or `undefined` for the engine's own choice. Low-rank experts are returned
 * by name, since indices change when experts are removed.
 *
 * @param wanted - `read_me.expert` of the body
 * @throws {ApiError} 400 naming the experts that the client may name, when it names another one, or two
 */
export function chosenExpert(
  wanted: string | number | undefined,
  { engine, servedName, namedExpert, mayName }: ExpertSource,
): string | number | undefined {
  const { info } = engine;
  if (wanted === undefined) return namedExpert;
  const isRouter = wanted === "router" && info.hasRouter;
  const isLowRank = hasLowRankExperts(info);
  const name = typeof wanted === "number" ? info.experts[wanted] : wanted;
  const usable = isLowRank
    ? liveExperts(engine).names.filter((one) => one === NO_EXPERT || mayName(servedName, one))
    : info.experts;
  if (!isRouter && (name === undefined || !usable.includes(name))) {
    throw invalid("read_me.expert", `expected one of ${listed(usable)}, got ${describeValue(wanted)}`);
  }
  if (namedExpert !== undefined && name !== namedExpert) {
    throw invalid("read_me.expert", `expected ${namedExpert}, which \`model\` names, got ${describeValue(wanted)}`);
  }
  return isLowRank && !isRouter ? name : wanted;
}

/** Returns the name of a request's checked expert, or `undefined` where the router or the engine's options decide. */
export function expertName(expert: string | number | undefined, { experts }: EngineInfo): string | undefined {
  const name = typeof expert === "number" ? experts[expert] : expert;
  return name !== undefined && experts.includes(name) ? name : undefined;
}

/** Names that a message lists. */
const MAX_NAMES = 50;

function listed(names: readonly string[]): string {
  const more = names.length > MAX_NAMES ? ` and ${names.length - MAX_NAMES} more` : "";
  return `${names.slice(0, MAX_NAMES).join(", ")}${more}`;
}

/** Translates an engine's refusal of an expert that was unloaded after the request had arrived. */
export function goneError(error: unknown, engine: Engine, expert: string | number | undefined): unknown {
  if (typeof expert !== "string" || !(error instanceof TypeError || error instanceof RangeError)) return error;
  const isGone = hasLowRankExperts(engine.info) && expert !== "router" && !liveExperts(engine).names.includes(expert);
  return isGone ? expertGone(expert) : error;
}
