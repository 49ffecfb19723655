/** A piece of a message's content, such as `{ type: "text", text: "…" }`. */
export interface ChatContentPart {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** One message of a chat. Templates see every field. */
export interface ChatMessage {
  /** Role of the speaker: `system`, `user`, `assistant`, `tool`, or another role that the template knows. */
  readonly role: string;
  /** May be absent only beside `tool_calls`. */
  readonly content?: string | readonly ChatContentPart[] | null;
  readonly [field: string]: unknown;
}
