import type { PromptInfo } from "@readme-moe/core";
import type { ModelText, PromptModel } from "@readme-moe/model";

/** Facts about a model that its config and its texts say. */
type TextInfo = Omit<PromptInfo, "contextTokens" | "experts" | "expertKind" | "hasRouter" | "promptVersion">;

/** Describes the texts of a model. */
export function promptInfo(
  { path, config }: Pick<PromptModel, "path" | "config">,
  { tokenizer, chatTemplate }: ModelText,
): TextInfo {
  return {
    path,
    modelType: config.modelType,
    vocabSize: config.vocabSize,
    hasChatTemplate: chatTemplate !== undefined,
    chatTemplateKnowsTools: chatTemplate?.knowsTools ?? false,
    reasons: chatTemplate?.reasons(tokenizer) ?? false,
    eosTokenIds: config.eosTokenIds,
  };
}
