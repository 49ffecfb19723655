import type { ChatTemplate } from "./chat-template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A model's text side. */
export interface ModelText {
  readonly tokenizer: Tokenizer;
  /** `undefined` for a model that was not made for chat. */
  readonly chatTemplate: ChatTemplate | undefined;
}
