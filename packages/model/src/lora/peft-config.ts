// Reads adapter_config.json as PEFT does. Fields that only matter for training, such as dropout, are not looked at.

import { describeValue, ReadMeError, PatternError } from "@readme-moe/core";
import { type Fields, MOST } from "../config/fields.ts";
import { quoted } from "../files/errors.ts";
import { Pattern, StepLimit } from "../patterns/pattern.ts";
import { MAX_RANK } from "./lora.ts";

/** Meaning of an adapter's config, by names of modules such as `model.layers.0.mlp.up_proj`. */
export interface PeftConfig {
  /** Rank and scale of a module's change, if it has one. @throws {ReadMeError} when the rank is too large */
  readonly shapeOf: (module: string) => { readonly rank: number; readonly scale: number };
  /** Tells whether the adapter changes a module. */
  readonly isTarget: (module: string) => boolean;
}

type Matches = (module: string) => boolean;

// An adapter that lists each module of 128 layers with its rank and its alpha needs a third of each. The steps are
// those of one module, since other work is done between two modules.
const MAX_PATTERN_STEPS = 2 ** 17;
const MAX_PATTERN_LENGTH = 2 ** 16;
const MAX_PATTERNS_LENGTH = 2 ** 19;

/** The fields of a config, with what its expressions may still take. */
interface Source {
  readonly fields: Fields;
  readonly sizes: StepLimit;
  readonly steps: StepLimit;
}

/** Module of the head, which "all-linear" leaves out. */
const HEAD = "lm_head";

const PLAIN = "supported are plain LoRA adapters";
/** Variants of LoRA whose forward pass is another one. */
const VARIANTS = ["use_dora", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"] as const;
/** Ways to initialise an adapter that also change the base model's weights. */
const CHANGES_BASE = /^(?:pissa|corda|olora|loftq|lora_ga)/i;

/** @throws {ReadMeError} naming the field that is wrong or not supported */
export function parsePeftConfig(fields: Fields): PeftConfig {
  if (fields.text("peft_type") !== "LORA") fields.unsupported("peft_type", "supported is LORA");
  refuseOtherKinds(fields);
  const source: Source = {
    fields,
    sizes: new StepLimit(MAX_PATTERNS_LENGTH),
    steps: new StepLimit(MAX_PATTERN_STEPS, (cause) => problem(fields, "matching the expressions", cause)),
  };
  const ranks = patternValues(source, "rank_pattern", (values, key) => values.size(key, MOST.integer));
  const alphas = patternValues(source, "alpha_pattern", (values, key) => values.number(key));
  const defaultRank = fields.size("r", MOST.integer, 8);
  const defaultAlpha = fields.number("lora_alpha", 8);
  const isStabilised = fields.boolean("use_rslora", false);
  const isTarget = parseTargets(source);
  return {
    shapeOf: (module) => {
      source.steps.restart();
      const rank = ranks(module) ?? defaultRank;
      if (rank > MAX_RANK) {
        const message = `${fields.path}: module ${quoted(module)} has rank ${rank}, supported are ranks up to ${MAX_RANK}`;
        throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
      }
      const alpha = alphas(module) ?? defaultAlpha;
      return { rank, scale: alpha / (isStabilised ? Math.sqrt(rank) : rank) };
    },
    isTarget: (module) => {
      source.steps.restart();
      return isTarget(module);
    },
  };
}

/** @throws {ReadMeError} for an adapter that is more, or other, than two matrices for each module */
function refuseOtherKinds(fields: Fields): void {
  for (const name of VARIANTS) if (isSet(fields.raw(name))) fields.unsupported(name, PLAIN);
  if (fields.text("bias", "none") !== "none") fields.unsupported("bias", "supported are adapters without biases");
  if (fields.boolean("lora_bias", false)) fields.unsupported("lora_bias", "supported are adapters without biases");
  for (const name of ["modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication"]) {
    if (isSet(fields.raw(name))) fields.unsupported(name, "supported are changes of linear modules alone");
  }
  if (fields.has("alora_invocation_tokens")) fields.unsupported("alora_invocation_tokens", PLAIN);
  const start = fields.raw("init_lora_weights");
  if (typeof start === "string" && CHANGES_BASE.test(start)) {
    const remedy = "it changes the base model; save with `path_initial_model_for_weight_conversion`";
    fields.unsupported("init_lora_weights", remedy);
  }
}

/** Tells whether Python counts a value as true, so that PEFT acts on it. */
function isSet(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === "object" && value !== null) return Object.keys(value).length > 0;
  return Boolean(value);
}

/** Reads an object with a value for each expression that names modules. The first expression that matches counts. */
function patternValues(
  source: Source,
  name: string,
  read: (values: Fields, key: string) => number,
): (module: string) => number | undefined {
  const values = source.fields.object(name);
  const entries = (values?.names ?? []).map((key) => ({
    pattern: patternOf(source, name, key),
    value: values && read(values, key),
  }));
  return (module) => entries.find(({ pattern }) => pattern.matchesSuffix(module, source.steps))?.value;
}

function parseTargets(source: Source): Matches {
  const isIncluded = parseIncluded(source);
  const isExcluded = parseModules(source, "exclude_modules");
  return (module) => isIncluded(module) && !isExcluded?.(module);
}

function parseIncluded(source: Source): Matches {
  const { fields } = source;
  const targets = fields.raw("target_modules");
  const isInLayer = parseLayers(source);
  if (typeof targets === "string" && isInLayer !== undefined) {
    throw fields.invalid("`layers_to_transform` needs a list as `target_modules`, not a string");
  }
  if (typeof targets === "string" && targets.toLowerCase() === "all-linear") return (module) => module !== HEAD;
  // Without the field, PEFT has modules for each family; all that the adapter has tensors of are among them.
  const isNamed = parseModules(source, "target_modules") ?? (() => true);
  // A module's whole name in the list counts in any layer.
  const wholeNames = Array.isArray(targets) ? new Set<unknown>(targets) : undefined;
  return (module) => wholeNames?.has(module) || (isNamed(module) && (isInLayer?.(module) ?? true));
}

/** Reads names of modules, of which the last parts are enough, or one expression for whole names. */
function parseModules(source: Source, name: string): Matches | undefined {
  const { fields, steps } = source;
  const value = fields.raw(name);
  if (value === undefined || value === "") return undefined;
  if (typeof value === "string") {
    const pattern = patternOf(source, name, value);
    return (module) => pattern.matches(module, steps);
  }
  const names = fields.texts(name) ?? [];
  return (module) => {
    steps.spend(names.length);
    return names.some((ending) => module === ending || module.endsWith(`.${ending}`));
  };
}

/** Reads the layers that an adapter is restricted to. */
function parseLayers(source: Source): Matches | undefined {
  const { fields, steps } = source;
  const value = fields.raw("layers_to_transform");
  const isEmpty = Array.isArray(value) && value.length === 0;
  if (value === undefined || isEmpty) return undefined;
  const layers: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (!layers.every((layer) => typeof layer === "number" && Number.isInteger(layer))) {
    const expected = "expected `layers_to_transform` to be the number of a layer or a list of them";
    throw fields.invalid(`${expected}, got ${describeValue(value)}`);
  }
  const list = fields.raw("layers_pattern");
  const names =
    typeof list === "string" ? [list].filter((name) => name !== "") : (fields.texts("layers_pattern") ?? []);
  const patterns = names.map((name) => patternOf(source, "layers_pattern", `.*\\.(?:${name})`));
  const numbers = new Set(layers);
  return (module) => {
    const { stack, layer } = /^(?<stack>.*?\.[^.]*)\.(?<layer>\d+)\./.exec(module)?.groups ?? {};
    if (stack === undefined || !numbers.has(Number(layer))) return false;
    return patterns.length === 0 || patterns.some((pattern) => pattern.matches(stack, steps));
  };
}

function patternOf({ fields, sizes }: Source, field: string, text: string): Pattern {
  try {
    const pattern = new Pattern(text, "python", MAX_PATTERN_LENGTH);
    sizes.spend(pattern.length);
    return pattern;
  } catch (cause) {
    if (!(cause instanceof PatternError)) throw cause;
    throw problem(fields, `the expression ${quoted(text)} in \`${field}\``, cause);
  }
}

function problem({ path }: Fields, what: string, cause: PatternError): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${what} ${cause.message}`, { cause });
}
