import type { ChatTemplate } from "@readme-moe/model";
import { generationOf, insideOf, type HostLike, type HostTokenizer } from "../host/host.ts";

/** The text side of a model. */
export interface TokenizerSource {
  /** Contents of tokenizer.json and tokenizer_config.json, spelled so that both generations read them. */
  readonly files: ReadonlyMap<string, string>;
  readonly chatTemplate: ChatTemplate | undefined;
}

/** A tokenizer of the host's own class, from our files: those of a GGUF file as well. */
export function hostTokenizer(host: HostLike, { files, chatTemplate }: TokenizerSource): HostTokenizer {
  const json = JSON.parse(files.get("tokenizer.json") ?? "{}") as object;
  const config = JSON.parse(files.get("tokenizer_config.json") ?? "{}") as { readonly tokenizer_class?: string };
  // As the host's AutoTokenizer chooses.
  const name = (config.tokenizer_class ?? "PreTrainedTokenizer").replace(/Fast$/, "");
  const own = (host as unknown as Readonly<Record<string, unknown>>)[name];
  const { PreTrainedTokenizer } = insideOf(host);
  const TokenizerClass = typeof own === "function" ? (own as typeof PreTrainedTokenizer) : PreTrainedTokenizer;
  const tokenizer = new TokenizerClass(json, config);
  if (generationOf(host) === "xenova" && chatTemplate) renderWith(tokenizer, chatTemplate);
  return tokenizer;
}

interface TemplateOptions {
  readonly chat_template?: string | null;
  readonly add_generation_prompt?: boolean;
  readonly tokenize?: boolean;
  readonly padding?: boolean;
  readonly truncation?: boolean;
  readonly max_length?: number | null;
  readonly return_tensor?: boolean;
  readonly tokenizer_kwargs?: object;
  readonly [variable: string]: unknown;
}

/** The Jinja of the older generation fails at most of today's templates. A template of the caller's own stays its. */
function renderWith(tokenizer: HostTokenizer, template: ChatTemplate): void {
  const original = tokenizer.apply_chat_template.bind(tokenizer);
  tokenizer.apply_chat_template = (messages, options: TemplateOptions = {}) => {
    if (options.chat_template) return original(messages, options);
    const {
      chat_template: _none,
      add_generation_prompt: addGenerationPrompt = false,
      tokenize = true,
      padding = false,
      truncation = false,
      max_length = null,
      return_tensor = true,
      tokenizer_kwargs = {},
      ...variables
    } = options;
    const text = template.render(messages as never, { addGenerationPrompt, ...variables });
    if (!tokenize) return text;
    const encoding = { add_special_tokens: false, padding, truncation, max_length, return_tensor, ...tokenizer_kwargs };
    return tokenizer(text, encoding).input_ids;
  };
}
