// Facts about an opened model: what its prompts may be, and hashes that tell whether two processes, perhaps on two
// machines, serve the same version.

import { createHash } from "node:crypto";
import { BITS_VERSION } from "@readme-moe/kernel";
import {
  adaptersFingerprint,
  type LowRankSet,
  type ModelConfig,
  type ModelText,
  promptFingerprint,
  type PromptModel,
  resolveCacheFolder,
} from "@readme-moe/model";
import type { PromptInfo } from "@readme-moe/core";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import type { KernelRunner } from "../kernel-runner.ts";

/** Options that the tokens and experts of a prompt depend on. */
type PromptOptions = Pick<ResolvedEngineOptions, "cacheFolder" | "controlTokensInMessages" | "expert">;

/**
 * Computes `EngineInfo.promptVersion`.
 * @param set - low-rank experts of a dense model
 */
export async function promptVersionOf(
  model: PromptModel,
  set: LowRankSet | undefined,
  { cacheFolder, controlTokensInMessages, expert }: PromptOptions,
): Promise<string> {
  const folder = resolveCacheFolder(cacheFolder);
  const experts = set?.experts.map(({ name }) => name);
  return hashOf([
    await promptFingerprint(model, folder),
    { experts, router: await set?.fingerprint(folder), controlTokensInMessages, expert },
  ]);
}

/** Parts of an engine that a token's logits depend on, besides its prompt. */
interface ModelParts {
  readonly promptVersion: string;
  readonly runner: Pick<KernelRunner, "weightsVersion" | "kvPrecision">;
  readonly set: LowRankSet;
  /** Largest number of tokens of a sequence: it ends answers, and chooses frequencies of some models. */
  readonly contextTokens: number;
  readonly options: Pick<ResolvedEngineOptions, "cacheFolder" | "loraPrecision">;
}

/** Computes `EngineInfo.modelVersion`. Low-rank experts that are added later are no part of it. */
export async function modelVersionOf(parts: ModelParts): Promise<string> {
  const { promptVersion, runner, set, contextTokens, options } = parts;
  const adapters = await adaptersFingerprint(set, resolveCacheFolder(options.cacheFolder));
  const { weightsVersion, kvPrecision } = runner;
  const { loraPrecision } = options;
  const numbers = { bits: BITS_VERSION, weightsVersion, kvPrecision, loraPrecision };
  return hashOf([promptVersion, { ...numbers, contextTokens, adapters }]);
}

function hashOf(values: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(values)).digest("hex");
}

/** Facts about a model that its config and its texts say. */
type TextInfo = Omit<PromptInfo, "contextTokens" | "experts" | "expertKind" | "hasRouter" | "promptVersion">;

/** Describes the texts of a model. */
export function promptInfo(
  { path, config }: Pick<PromptModel, "path" | "config">,
  { tokenizer, chatTemplate }: ModelText,
): TextInfo {
  return {
    ...taskOf(config),
    path,
    modelType: config.modelType,
    vocabSize: config.vocabSize,
    hasChatTemplate: chatTemplate !== undefined,
    chatTemplateKnowsTools: chatTemplate?.knowsTools ?? false,
    reasons: chatTemplate?.reasons(tokenizer) ?? false,
    eosTokenIds: config.eosTokenIds,
  };
}

/** Describes what a model was made for. */
function taskOf({ pooling, hiddenSize }: ModelConfig): Pick<PromptInfo, "task" | "embedding"> {
  if (!pooling) return { task: "generate" };
  if (pooling.kind === "score") return { task: "rerank" };
  const { prompts, defaultPrompt, isNormalized } = pooling;
  return { task: "embed", embedding: { dimensions: hiddenSize, isNormalized, prompts, defaultPrompt } };
}
