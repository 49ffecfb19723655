// Schemas of request bodies, and the fields that several have. A field that is `null` counts as absent.

import {
  isRecord,
  samplingParametersWith,
  wireName,
  type SAMPLING_PARAMETERS,
  type SamplingName,
  type SamplingNameWith,
  type SamplingParameter,
  type SamplingParams,
  type WireName,
} from "@readme-moe/core";
import { z } from "zod";
import { LIMITS } from "../limits.ts";
import { REASONING_EFFORTS } from "../reasoning/reasoning.ts";

/** Largest id that a token of any vocabulary can have. */
export const MAX_TOKEN_ID = 0x7fffffff;

const tokenId: z.ZodInt = z.int().min(0).max(MAX_TOKEN_ID);

/** Values of sampling parameters in JSON, by kind. */
interface JsonValues {
  readonly number: number;
  readonly integer: number;
  readonly flag: boolean;
  readonly texts: string | string[];
  readonly tokenIds: number[];
  readonly biases: Record<string, number>;
}

/** A sampling parameter as the field of a body. */
export type SamplingField<Name extends SamplingName> = z.ZodOptional<
  z.ZodNullable<z.ZodType<JsonValues[(typeof SAMPLING_PARAMETERS)[Name]["kind"]]>>
>;

const FIELDS: { readonly [Kind in keyof JsonValues]: (entry: SamplingParameter) => z.ZodType<JsonValues[Kind]> } = {
  number: (entry) => within(z.number(), entry),
  integer: (entry) => within(z.int(), entry),
  flag: () => z.boolean(),
  texts({ maxItems = Infinity, maxChars = Infinity }) {
    const text = z.string().min(1).max(maxChars);
    return z.union([text, z.array(text).max(maxItems)]);
  },
  tokenIds: ({ maxItems = Infinity }) => z.array(tokenId).max(maxItems),
  biases: (entry) => z.record(z.string().regex(/^(0|[1-9]\d{0,9})$/), within(z.number(), entry)),
};

function within(number: z.ZodNumber, { min, above, max }: SamplingParameter): z.ZodNumber {
  let field = number;
  if (min !== undefined) field = field.min(min);
  if (above !== undefined) field = field.gt(above);
  return max === undefined ? field : field.max(max);
}

/** Makes the field of a sampling parameter. @param api - what differs in the API */
export function samplingField(
  entry: SamplingParameter,
  api: NonNullable<SamplingParameter["http"]>,
): z.ZodOptional<z.ZodNullable<z.ZodType>> {
  const field = FIELDS[entry.kind]({ ...entry, ...api }).nullish();
  return api.about === undefined ? field : field.describe(api.about);
}

/** Sampling parameters of OpenAI's APIs. */
const HTTP_PARAMETERS = samplingParametersWith("http");

/** Sampling parameters with the names of OpenAI and vLLM. */
export const samplingFields = Object.fromEntries(
  HTTP_PARAMETERS.map(([name, entry]) => [wireName(name), samplingField(entry, entry.http)]),
) as { readonly [Name in SamplingNameWith<"http"> as WireName<Name>]: SamplingField<Name> };

/** Reads the sampling parameters of a body. Absent ones keep the model's and the engine's defaults. */
export function samplingOf(
  body: Readonly<Partial<Record<keyof typeof samplingFields, unknown>>>,
): Pick<SamplingParams, SamplingNameWith<"http">> {
  return Object.fromEntries(HTTP_PARAMETERS.map(([name, entry]) => [name, samplingValue(entry, body[wireName(name)])]));
}

/** Returns a field's value for the engine. A number below the parameter's range, such as -1, stands for its default. */
export function samplingValue({ min = -Infinity, ...entry }: SamplingParameter, value: unknown): unknown {
  return typeof value === "number" && value < min ? entry.default : (value ?? undefined);
}

const priority = z.number().min(-1e9).max(1e9).nullish().describe("Requests with larger numbers run first");

const pooledReadMe = z.strictObject({ priority }).nullish();

export const requestFields = {
  model: z
    .string()
    .min(1)
    .max(512)
    .nullish()
    .describe("Name of the model, or `<model>:<expert>`. Absent for the default model"),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish(),
      include_obfuscation: z.literal(false).nullish(),
      continuous_usage_stats: z.literal(false).nullish(),
    })
    .nullish(),
  read_me: z
    .strictObject({
      expert: z
        .union([z.string().min(1).max(256), z.int().min(0).max(65_535)])
        .nullish()
        .describe("Name or index of one expert for every token, instead of the model's router"),
      priority,
      include: z
        .array(z.enum(["routes", "timings", "progress"]))
        .max(8)
        .nullish()
        .describe("Further contents of the answer; `progress` of reading the prompt is in streams"),
      reconnect_ms: z
        .int()
        .min(0)
        .max(LIMITS.reconnectMs.value)
        .nullish()
        .describe("Time for which a stream is generated on after its connection has ended, in ms"),
    })
    .nullish(),
} as const;

/** An object whose contents are neither checked nor copied here: the grammars bound what they cost. */
export const jsonSchema = z
  .custom<Record<string, unknown>>(isRecord, "expected an object")
  .meta({ type: "object", propertyNames: { type: "string" }, additionalProperties: {} });

const label = z.string().max(1024).nullish();

/** Parameters that change no answer here: labels, and those of stores, caches and tiers of other servers. */
export const inertFields = {
  user: label,
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish(),
  store: z.boolean().nullish(),
  service_tier: z.string().max(64).nullish(),
  safety_identifier: label,
  prompt_cache_key: label,
  prompt_cache_retention: z.string().max(64).nullish(),
  keep_alive: z.union([z.string().max(64), z.number()]).nullish(),
} as const;

/** A JSON schema, or its text. Its contents are neither checked nor copied here: the grammars bound what they cost. */
const schemaOrText = z.union([z.string().min(1).max(LIMITS.bodyBytes.value), z.boolean(), jsonSchema]).nullish();
const grammarText = z.string().min(1).nullish();
const choiceTexts = z.array(z.string().min(1)).min(1).max(LIMITS.guidedChoices.value).nullish();

/** Constraints with the names of vLLM, before and since its version 0.12, and of llama.cpp. */
export const structuredFields = {
  guided_json: schemaOrText,
  guided_regex: grammarText,
  guided_choice: choiceTexts,
  guided_grammar: grammarText.describe("GBNF"),
  grammar: grammarText.describe("GBNF"),
  structured_outputs: z
    .strictObject({
      json: schemaOrText,
      regex: grammarText,
      choice: choiceTexts,
      grammar: grammarText.describe("GBNF"),
      json_object: z.boolean().nullish(),
    })
    .nullish(),
} as const;

/** Names of parameters that are reported as not supported if their value would have an effect. */
export const NEUTRAL_NAMES: ReadonlySet<string> = new Set([
  "modalities",
  "audio",
  "functions",
  "function_call",
  "verbosity",
  "web_search_options",
  "best_of",
  "load_inplace",
  "include_obfuscation",
  "continuous_usage_stats",
  "refusal",
]);

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const content = z.union([z.string(), z.array(textPart)]);
const name = z.string().max(256).nullish();

const toolCall = z.strictObject({
  id: z.string().max(256),
  type: z.literal("function"),
  function: z.strictObject({
    name: z.string().min(1).max(256),
    arguments: z.string().describe("JSON"),
  }),
});

const textMessage = <Role extends string>(role: Role) => z.strictObject({ role: z.literal(role), content, name });

const assistantMessage = z.strictObject({
  role: z.literal("assistant"),
  content: content.nullish(),
  name,
  tool_calls: z.array(toolCall).nullish(),
  reasoning_content: z.string().nullish(),
  refusal: z.null().optional(),
  audio: z.null().optional(),
  function_call: z.null().optional(),
});

const toolMessage = z.strictObject({ role: z.literal("tool"), content, tool_call_id: z.string().max(256), name });

const messages = z
  .array(
    z.discriminatedUnion("role", [
      textMessage("system"),
      textMessage("developer"),
      textMessage("user"),
      assistantMessage,
      toolMessage,
    ]),
  )
  .min(1);

export const functionName = z
  .string()
  .regex(/^[\w-]+$/)
  .max(128);

const tools = z
  .array(
    z.strictObject({
      type: z.literal("function"),
      function: z.strictObject({
        name: functionName,
        description: z.string().nullish(),
        parameters: jsonSchema.nullish().describe("JSON Schema"),
        strict: z.boolean().nullish(),
      }),
    }),
  )
  .max(LIMITS.tools.value);

const responseFormat = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text") }),
  z.strictObject({ type: z.literal("json_object") }),
  z.strictObject({
    type: z.literal("json_schema"),
    json_schema: z.strictObject({
      name: z.string().min(1).max(64),
      description: z.string().nullish(),
      schema: jsonSchema.nullish(),
      strict: z.boolean().nullish(),
    }),
  }),
]);

const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: functionName }) }),
]);

const listOfObjects = z.array(z.looseObject({})).nullish();
export const templateVariables = z.looseObject({ tools: listOfObjects, documents: listOfObjects }).nullish();

export const chatBody = z.strictObject({
  messages,
  ...requestFields,
  ...samplingFields,
  max_completion_tokens: z.int().min(1).nullish(),
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish().describe("Needs `logprobs`"),
  response_format: responseFormat.nullish(),
  tools: tools.nullish(),
  tool_choice: toolChoice.nullish().describe("Needs `tools`, unless it is `none`"),
  parallel_tool_calls: z.boolean().nullish(),
  chat_template_kwargs: templateVariables.describe("Variables of the model's chat template"),
  add_generation_prompt: z.boolean().nullish().describe("@default true, without `continue_final_message`"),
  continue_final_message: z
    .boolean()
    .nullish()
    .describe("Continues the assistant's last message instead of beginning a new one. The answer has what follows"),
  ...structuredFields,
  ...inertFields,
  modalities: z.array(z.literal("text")).max(1).nullish(),
  audio: z.null().optional(),
  prediction: z
    .strictObject({ type: z.literal("content"), content })
    .nullish()
    .describe("A text that the answer is expected to repeat, which then comes sooner. Never changes the answer"),
  functions: z.null().optional(),
  function_call: z.null().optional(),
  reasoning_effort: z
    .enum(REASONING_EFFORTS)
    .nullish()
    .describe("Largest share of the completion's tokens for reasoning. Without effect on models that do not reason"),
  thinking_token_budget: z
    .int()
    .min(0)
    .nullish()
    .describe("Largest number of tokens of reasoning. Without effect on models that do not reason"),
  verbosity: z.literal("medium").nullish(),
  web_search_options: z.null().optional(),
});

/** A request to `/v1/chat/completions`. */
export type ChatBody = z.infer<typeof chatBody>;

/** Fields of another API's body that a chat has under the same name, with values that a chat can have. */
type ChatFieldsOf<Body> = {
  [Name in keyof Body & keyof ChatBody as Body[Name] extends ChatBody[Name] ? Name : never]: Body[Name];
};

/** Copies the fields of another API's body that a chat has, too. Those with other values have to be replaced. */
export function chatFieldsOf<Body extends object>(body: Body): ChatFieldsOf<Body> {
  const fields = Object.entries(body).filter(([field]) => field in chatBody.shape);
  return Object.fromEntries(fields) as ChatFieldsOf<Body>;
}

/** Fields that constrain an answer's text. */
export type StructuredFields = Pick<ChatBody, keyof typeof structuredFields>;

/** Other files beside a text with a gap, in llama.cpp's shape. */
export const inputExtra = z
  .array(
    z.strictObject({
      filename: z.string().max(1024).nullish(),
      text: z.string(),
      time: z.unknown().optional().describe("Without effect"),
    }),
  )
  .max(LIMITS.extraFiles.value)
  .nullish();

const textsOrIds = (most: number) =>
  z
    .union([
      z.string(),
      z.array(z.string()).min(1).max(most),
      z.array(tokenId).min(1),
      z.array(z.array(tokenId).min(1)).min(1).max(most),
    ])
    .describe("A text, token ids, or a list of either");

export const completionBody = z.strictObject({
  prompt: textsOrIds(LIMITS.prompts.value),
  ...requestFields,
  ...samplingFields,
  max_tokens: z.int().min(1).nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish().describe("Starts answers with the prompt. Not together with `logprobs`"),
  ...structuredFields,
  ...inertFields,
  suffix: z.string().nullish().describe("Text behind the gap that the answer fills. Needs a model with marks for it"),
  input_extra: inputExtra.describe("Other files that the model sees before, as in `/infill`. Needs `suffix`"),
  best_of: z.literal(1).nullish(),
});

/** A request to `/v1/completions`. */
export type CompletionBody = z.infer<typeof completionBody>;

const { model } = requestFields;

export const tokenizeBody = z.union([
  z.strictObject({
    model,
    prompt: z.string(),
    add_special_tokens: z.boolean().nullish().describe("@default true"),
  }),
  z.strictObject({
    model,
    messages,
    add_special_tokens: z.boolean().nullish().describe("@default false, since templates write special tokens"),
    add_generation_prompt: z.boolean().nullish().describe("@default true"),
    chat_template_kwargs: templateVariables,
    tools: tools.nullish(),
  }),
]);
export type TokenizeBody = z.infer<typeof tokenizeBody>;

const loraName = z.string().min(1).max(512).describe("`<model>:<expert>`, or an expert of the default model");

export const loadAdapterBody = z.strictObject({
  lora_name: loraName,
  lora_path: z.string().min(1).max(1024).describe("Name of a folder below the server's folder of experts"),
  load_inplace: z.literal(false).nullish(),
});

export type LoadAdapterBody = z.infer<typeof loadAdapterBody>;

export const unloadAdapterBody = z.strictObject({ lora_name: loraName });
export type UnloadAdapterBody = z.infer<typeof unloadAdapterBody>;

export const detokenizeBody = z.strictObject({ model, tokens: z.array(tokenId) });
export type DetokenizeBody = z.infer<typeof detokenizeBody>;

const instruction = z.string().min(1).max(4096).nullish();

export const embeddingsBody = z.strictObject({
  model,
  input: textsOrIds(LIMITS.inputs.value),
  encoding_format: z.enum(["float", "base64"]).nullish().describe("base64 is of float32, little-endian"),
  dimensions: z.int().min(1).nullish().describe("Keeps the first numbers, as an embedding of length 1"),
  instruction: instruction.describe("Task of a query. Puts `Instruct: …\\nQuery:` before each text"),
  prompt_name: z.string().min(1).max(256).nullish().describe("One of the model's own texts that go before inputs"),
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/v1/embeddings`. */
export type EmbeddingsBody = z.infer<typeof embeddingsBody>;

const documentText = z.union([z.string(), z.strictObject({ text: z.string() })]);

export const rerankBody = z.strictObject({
  model,
  query: z.string(),
  documents: z.array(documentText).min(1).max(LIMITS.inputs.value),
  top_n: z.int().min(1).nullish().describe("Number of documents in the answer. @default all"),
  return_documents: z.boolean().nullish().describe("Adds the texts to the answer. @default false"),
  instruction: instruction.describe("Task: what makes a document relevant"),
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/v1/rerank`. */
export type RerankBody = z.infer<typeof rerankBody>;

const truncation = {
  truncate: z.boolean().nullish().describe("Whether the end of a long text is left out. @default true"),
  truncation_direction: z.enum(["Right", "right"]).nullish(),
};

const teiRerankBody = z.strictObject({
  model,
  query: z.string(),
  texts: z.array(z.string()).min(1).max(LIMITS.inputs.value),
  raw_scores: z.boolean().nullish().describe("Scores are logits. @default false: 0 to 1"),
  return_text: z.boolean().nullish().describe("Adds the texts to the answer. @default false"),
  ...truncation,
});

/** A ranking in the shape of Text Embeddings Inference. */
export type TeiRerankBody = z.infer<typeof teiRerankBody>;

export const rankingBody = z.union([rerankBody, teiRerankBody]);

export const scoreBody = z.strictObject({
  model,
  text_1: z.string().describe("Text that each of the others is scored against"),
  text_2: z.union([z.string(), z.array(z.string()).min(1).max(LIMITS.inputs.value)]),
  instruction: rerankBody.shape.instruction,
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/v1/score`. */
export type ScoreBody = z.infer<typeof scoreBody>;

const textOrPair = z.union([z.string(), z.tuple([z.string(), z.string()])]);

export const classifyBody = z.strictObject({
  model,
  input: z
    .union([textsOrIds(LIMITS.inputs.value), z.array(textOrPair).min(1).max(LIMITS.inputs.value)])
    .describe("A text, token ids, or a list of either, or of pairs of texts"),
  read_me: pooledReadMe,
  ...inertFields,
});

/** A request to `/classify`. */
export type ClassifyBody = z.infer<typeof classifyBody>;

const teiTexts = z.array(z.string()).min(1).max(2);

export const teiPredictBody = z.strictObject({
  model,
  inputs: z
    .union([z.string(), teiTexts, z.array(teiTexts).min(1).max(LIMITS.inputs.value)])
    .describe("A text, a list of one text or of a pair, or a list of such lists"),
  raw_scores: z.boolean().nullish().describe("Whether scores are logits. @default false"),
  ...truncation,
});

/** A request to `/predict`. */
export type TeiPredictBody = z.infer<typeof teiPredictBody>;

export const teiEmbedBody = z.strictObject({
  model,
  inputs: embeddingsBody.shape.input,
  ...truncation,
  normalize: z.boolean().nullish().describe("Whether vectors have length 1. @default true"),
  dimensions: embeddingsBody.shape.dimensions,
  prompt_name: embeddingsBody.shape.prompt_name,
});

/** A request to `/embed`. */
export type TeiEmbedBody = z.infer<typeof teiEmbedBody>;
