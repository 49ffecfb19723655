import {
  chatBody,
  completionBody,
  loadAdapterBody,
  unloadAdapterBody,
} from "../../packages/express/src/api/request-schemas.ts";
import { countTokensBody, messagesBody } from "../../packages/express/src/messages/schemas.ts";
import { responsesBody, withItemTypes } from "../../packages/express/src/responses/schemas.ts";
import type { FuzzCase } from "./fuzz-case.ts";

const SCHEMAS = {
  "/v1/chat/completions": chatBody,
  "/v1/completions": completionBody,
  "/v1/responses": responsesBody,
  "/v1/messages": messagesBody,
  "/v1/messages/count_tokens": countTokensBody,
  "/v1/load_lora_adapter": loadAdapterBody,
  "/v1/unload_lora_adapter": unloadAdapterBody,
};

/** Returns whether the body, read by the client itself, violates the route's schema. */
export function isRefusable({ kind, asks, pieces }: FuzzCase): boolean {
  if (kind !== "json" && kind !== "bytes") return false;
  const schema = SCHEMAS[asks[0]?.path as keyof typeof SCHEMAS];
  // oxlint-disable-next-line typescript/no-unnecessary-condition -- other paths have no schema
  if (schema === undefined) return false;
  const all = Buffer.concat(pieces.map(({ bytes }) => bytes));
  try {
    const body: unknown = JSON.parse(all.toString("utf8", all.indexOf("\r\n\r\n") + 4));
    return !schema.safeParse(schema === responsesBody ? withItemTypes(body) : body).success;
  } catch {
    return true;
  }
}
