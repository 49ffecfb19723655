// A trace of a mixture with a router in every layer: arrivals of sequences, and the experts of each token by layer.
//
// As a file it has one line of JSON for the model and one for each sequence:
//
//   {"type":"mixture","num_experts":4,"experts_per_token":2,"layer_bytes":[1000000,1000000]}
//   {"type":"sequence","id":"s0","arrival_step":0,"prompt_tokens":1,"routes":[[0,3,1,2],[0,1,-1,-1]]}
//
// A token's route lists its experts layer by layer. -1 stands for an expert that was not chosen: the last layer runs
// only tokens whose logits are wanted.

import { ReadMeError } from "../errors.ts";
import type { ExpertLayout } from "../expert-cache/cached-units.ts";
import { describeValue } from "../options.ts";
import { Fields } from "./trace-fields.ts";
import { lineOf, wholeLines, type TraceSequence } from "./trace.ts";

/** A sequence of a trace: its arrival, and the experts of its tokens. */
export interface MixtureSequence extends Omit<TraceSequence, "experts"> {
  /**
   * Experts of each token that runs, `[tokens, numLayers, expertsPerToken]`, at least of the prompt; -1 where a layer
   * did not run. The last generated token never runs.
   */
  readonly routes: Int32Array;
}

/** Arrivals and routes, independent of any model; input of `simulateMixture`. */
export interface MixtureTrace {
  readonly layout: ExpertLayout;
  /** Number of distinct experts that a layer chooses for a token. */
  readonly expertsPerToken: number;
  /** Sequences in order of arrival. */
  readonly sequences: readonly MixtureSequence[];
}

/** Returns the numbers of `routes` that one token takes. */
export function routeSize({ layout, expertsPerToken }: Pick<MixtureTrace, "layout" | "expertsPerToken">): number {
  return layout.layerBytes.length * expertsPerToken;
}

/**
 * Lets every layer use the first layer's experts: the routes of a pre-gating router with the same number of experts,
 * bytes and tokens, and the same locality.
 */
export function preGatedTrace(trace: MixtureTrace): MixtureTrace {
  const { expertsPerToken } = trace;
  const size = routeSize(trace);
  const sequences = trace.sequences.map((sequence): MixtureSequence => {
    const routes = sequence.routes.map((_, index) => {
      const token = Math.floor(index / size);
      return sequence.routes[token * size + (index % expertsPerToken)] ?? -1;
    });
    return { ...sequence, routes };
  });
  return { ...trace, sequences };
}

/** Writes a trace as lines, each ended by a line feed. */
export function writeMixtureTrace(trace: MixtureTrace): string {
  const { layout, expertsPerToken, sequences } = trace;
  const model = {
    type: "mixture",
    num_experts: layout.numExperts,
    experts_per_token: expertsPerToken,
    layer_bytes: layout.layerBytes,
  };
  const size = routeSize(trace);
  const lines = sequences.map(({ id, arrivalStep, promptTokens, routes }) => {
    const tokens = Array.from({ length: routes.length / size }, (_, token) =>
      Array.from(routes.subarray(token * size, (token + 1) * size)),
    );
    return lineOf({ type: "sequence", id, arrival_step: arrivalStep, prompt_tokens: promptTokens, routes: tokens });
  });
  return [lineOf(model), ...lines].join("");
}

/** Whether a text begins like a trace of a mixture. */
export function isMixtureTrace(text: string): boolean {
  return /^\s*\{\s*"type"\s*:\s*"mixture"/.test(text);
}

/**
 * Reads the lines of `writeMixtureTrace`. Sequences may be in any order. Ignores blank lines and an incomplete last
 * one.
 *
 * @param name - file name for messages
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, naming file and line
 */
export function readMixtureTrace(text: string, name: string): MixtureTrace {
  let model: Omit<MixtureTrace, "sequences"> | undefined;
  const sequences: MixtureSequence[] = [];
  const ids = new Set<string>();
  for (const [index, line] of wholeLines(text).entries()) {
    if (line.trim() === "") continue;
    const fields = Fields.parse(line, `${name}:${index + 1}`);
    const type = fields.text("type");
    if (!model) {
      if (type !== "mixture") throw fields.bad("expected the first line to be of the type `mixture`");
      model = modelOf(fields);
      continue;
    }
    if (type !== "sequence") throw fields.bad(`expected \`type\` to be \`sequence\`, got ${describeValue(type)}`);
    const sequence = sequenceOf(fields, model);
    if (ids.has(sequence.id)) throw fields.bad(`there is a sequence \`${sequence.id}\` already`);
    ids.add(sequence.id);
    sequences.push(sequence);
  }
  if (!model) throw new ReadMeError("ERR_FILE_CORRUPT", `${name}:1: expected a line of the type \`mixture\``);
  return { ...model, sequences: sequences.toSorted((a, b) => a.arrivalStep - b.arrivalStep) };
}

function modelOf(fields: Fields): Omit<MixtureTrace, "sequences"> {
  const numExperts = fields.integer("num_experts", 1);
  const expertsPerToken = fields.integer("experts_per_token", 1);
  if (expertsPerToken > numExperts) throw fields.bad(`\`experts_per_token\` exceeds the ${numExperts} experts`);
  return { layout: { numExperts, layerBytes: fields.integers("layer_bytes", 1, 1) }, expertsPerToken };
}

function sequenceOf(fields: Fields, model: Omit<MixtureTrace, "sequences">): MixtureSequence {
  const promptTokens = fields.integer("prompt_tokens", 1);
  const size = routeSize(model);
  const { numExperts } = model.layout;
  const tokens = fields.lists("routes", promptTokens, { length: size, least: -1, most: numExperts - 1 });
  const routes = Int32Array.from(tokens.flat());
  const { expertsPerToken } = model;
  for (let at = 0; at < routes.length; at += expertsPerToken) {
    const chosen = routes.subarray(at, at + expertsPerToken);
    const isWhole = new Set(chosen).size === expertsPerToken && !chosen.includes(-1);
    if (!isWhole && chosen.some((expert) => expert >= 0)) {
      throw fields.bad(
        `expected token ${Math.floor(at / size)} to have ${expertsPerToken} different experts in each layer`,
      );
    }
  }
  return { id: fields.text("id"), arrivalStep: fields.integer("arrival_step", 0), promptTokens, routes };
}
