/** A piece of a message's content, such as `{ type: "text", text: "…" }`. */
export interface ChatContentPart {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** One turn of a chat. Templates see every field. */
export interface ChatMessage {
  /** Who speaks: `system`, `user`, `assistant`, `tool`, or what the template knows. */
  readonly role: string;
  /** May be absent only beside `tool_calls`. */
  readonly content?: string | readonly ChatContentPart[] | null;
  readonly [field: string]: unknown;
}
