import type { Asker, Constraint, Grammars, JsonSchema } from "@readme-moe/grammar";
import { ApiError } from "./http/api-error.ts";

/** What an answer has to be, in the shape of the OpenAI API. */
export type ResponseFormat =
  | { readonly type: "text" }
  | { readonly type: "json_object" }
  | {
      readonly type: "json_schema";
      readonly json_schema: { readonly schema?: Readonly<Record<string, unknown>> | null | undefined };
    };

/**
 * Answers are bound to a schema whether or not it is `strict`: a promise more than was asked for.
 *
 * @returns `undefined` where any text will do
 * @throws {ApiError} 400, on a schema that is wrong or cannot be honoured
 * @throws {ReadMeError} as `Grammars.jsonSchema`
 */
export async function constraintOf(
  format: ResponseFormat | null | undefined,
  grammars: Pick<Grammars, "jsonObject" | "jsonSchema">,
  asker: Asker = {},
): Promise<Constraint | undefined> {
  if (!format || format.type === "text") return undefined;
  if (format.type === "json_object") return grammars.jsonObject(asker);
  const schema: JsonSchema = format.json_schema.schema ?? true;
  try {
    return await grammars.jsonSchema(schema, asker);
  } catch (cause) {
    if (!(cause instanceof TypeError || cause instanceof RangeError)) throw cause;
    const details = { status: 400, type: "invalid_request_error", code: "invalid_value", cause };
    const param = "response_format.json_schema.schema";
    throw new ApiError({ ...details, param, message: `Invalid '${param}': ${cause.message}` });
  }
}
