// Reads adapter_config.json as PEFT does. Tensors decide which modules change, and by which rank. Fields that only
// matter for training, such as dropout, are not looked at.

import { PatternError, ReadMeError } from "@readme-moe/core";
import type { Fields } from "../config/fields.ts";
import { quoted } from "../files/errors.ts";
import { Pattern, StepLimit } from "../patterns/pattern.ts";

/** Computes the scale of a module's change, such as `model.layers.0.mlp.up_proj`'s. */
export type ScaleOf = (module: string, rank: number) => number;

// An adapter that lists each module of 128 layers with its alpha needs a third of each. The steps are those of one
// module, since other work is done between two modules.
const MAX_PATTERN_STEPS = 2 ** 17;
const MAX_PATTERN_LENGTH = 2 ** 16;
const MAX_PATTERNS_LENGTH = 2 ** 19;

const PLAIN = "supported are plain LoRA adapters";
/** Variants of LoRA whose forward pass is another one. */
const VARIANTS = ["use_dora", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"] as const;
/** Ways to initialise an adapter that also change the base model's weights. */
const CHANGES_BASE = /^(?:pissa|corda|olora|loftq|lora_ga)/i;

/** @throws {ReadMeError} naming the field that is wrong or not supported */
export function parsePeftConfig(fields: Fields): ScaleOf {
  if (fields.text("peft_type") !== "LORA") fields.unsupported("peft_type", "supported is LORA");
  refuseOtherKinds(fields);
  const alphas = parseAlphas(fields);
  const defaultAlpha = fields.number("lora_alpha", 8);
  const isStabilised = fields.boolean("use_rslora", false);
  const steps = new StepLimit(MAX_PATTERN_STEPS, (cause) => problem(fields, "matching the expressions", cause));
  return (module, rank) => {
    steps.restart();
    const own = alphas.find(({ pattern }) => pattern.matchesSuffix(module, steps));
    return (own?.alpha ?? defaultAlpha) / (isStabilised ? Math.sqrt(rank) : rank);
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

/** Reads the alphas of modules that expressions name, of which the first that matches counts. */
function parseAlphas(fields: Fields): readonly { readonly pattern: Pattern; readonly alpha: number }[] {
  const values = fields.object("alpha_pattern");
  const sizes = new StepLimit(MAX_PATTERNS_LENGTH);
  return (values?.names ?? []).map((text) => {
    const alpha = values?.number(text) ?? NaN;
    try {
      const pattern = new Pattern(text, { maxLength: MAX_PATTERN_LENGTH, hasPlaces: true });
      sizes.spend(pattern.length);
      return { pattern, alpha };
    } catch (cause) {
      if (!(cause instanceof PatternError)) throw cause;
      throw problem(fields, `the expression ${quoted(text)} in \`alpha_pattern\``, cause);
    }
  });
}

function problem({ path }: Fields, what: string, cause: PatternError): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${what} ${cause.message}`, { cause });
}
