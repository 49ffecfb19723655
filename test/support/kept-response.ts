// Responses that a store is to keep.

import type { EndedResponse, Item } from "../../packages/express/src/responses/store.ts";
import type { ResponseAnswer } from "../../packages/express/src/responses/schemas.ts";

/** Makes a response without history. @param text - text of its input */
export function keptResponse(id: string, text = "Hello"): EndedResponse {
  const input: Item = { type: "message", id: `in-${id}`, role: "user", content: text };
  const output: Item = {
    type: "message",
    id: `out-${id}`,
    role: "assistant",
    status: "completed",
    content: [{ type: "output_text", text: "Hi", annotations: [] }],
  };
  return { response: answerOf(id), history: [], input: [input], output: [output] };
}

function answerOf(id: string): ResponseAnswer {
  return {
    id,
    object: "response",
    created_at: 0,
    completed_at: 0,
    status: "completed",
    background: false,
    error: null,
    incomplete_details: null,
    instructions: null,
    max_output_tokens: null,
    max_tool_calls: null,
    model: "tiny",
    output: [],
    parallel_tool_calls: true,
    previous_response_id: null,
    prompt_cache_key: null,
    reasoning: { effort: null, summary: null },
    safety_identifier: null,
    service_tier: "default",
    store: true,
    temperature: null,
    text: { format: { type: "text" }, verbosity: "medium" },
    tool_choice: "auto",
    tools: [],
    top_logprobs: 0,
    top_p: null,
    truncation: "disabled",
    usage: null,
    user: null,
    metadata: {},
  };
}
