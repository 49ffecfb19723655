// A job: a request as plain data. What comes out of the queue is checked like a client's body.

import {
  isTraceparent,
  SAMPLING_PARAMETERS,
  type EngineInfo,
  type GenerateRequest,
  type SamplingName,
  type SamplingParameter,
  type SamplingParams,
} from "@readme-moe/core";
import { z } from "zod";

/** Refuses models that give embeddings or scores, which no job asks for. @throws {TypeError} */
export function requireGenerating({ task, path }: Pick<EngineInfo, "task" | "path">): void {
  if (task === "generate") return;
  throw new TypeError(`Expected a model that continues prompts; ${path} is for \`${task}\`: serve it without a fleet`);
}

const count = z.number().int().nonnegative();
const tokenIds = z.array(count).max(1 << 22);

export const expertTokensSchema: z.ZodType<number[]> = z.array(count).max(65_536);

/** Values of sampling parameters in a job, by kind. The engine checks them; here only shapes count. */
const KINDS = {
  number: z.number(),
  integer: z.number(),
  flag: z.boolean(),
  texts: z.array(z.string()).max(64),
  tokenIds,
  biases: z.record(z.string().regex(/^\d{1,10}$/), z.number()),
} as const satisfies Readonly<Record<SamplingParameter["kind"], z.ZodType>>;

type JobParam<Name extends SamplingName> = z.ZodExactOptional<
  (typeof KINDS)[(typeof SAMPLING_PARAMETERS)[Name]["kind"]]
>;

const paramFields = Object.entries<SamplingParameter>(SAMPLING_PARAMETERS).map(
  ([name, { kind }]) => [name, KINDS[kind].exactOptional()] as const,
);

const params = z
  .strictObject(Object.fromEntries(paramFields) as { readonly [Name in SamplingName]: JobParam<Name> })
  .extend({ maxTokens: z.number(), seed: z.number(), n: z.int().min(1).max(SAMPLING_PARAMETERS.n.max) });

/** Ids of requests are parts of keys. Those of jobs have an addition. */
const ID = /^[\w.-]{1,128}$/;
const JOB_ID = /^[\w.-]{1,160}$/;

const jobSchema = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(JOB_ID),
  prompt: tokenIds.min(1),
  /** Tokens of the prompt by expert; absent for a dense model. */
  expertTokens: expertTokensSchema.exactOptional(),
  params,
  expert: z.union([z.string().max(256), count]).exactOptional(),
  priority: z.number(),
  client: z.string().max(1024).exactOptional(),
  cacheSalt: z.string().max(1024).exactOptional(),
  traceparent: z.string().max(512).refine(isTraceparent).exactOptional(),
  prediction: z.union([z.string(), tokenIds]).exactOptional(),
  /** Description of a constraint; its kind decides what it has to look like. */
  constraint: z.looseObject({ kind: z.string().max(64) }).exactOptional(),
});

export type FleetJob = z.infer<typeof jobSchema>;

/** A request whose defaults and seed are filled in. */
export interface JobRequest extends Omit<GenerateRequest, "prompt" | "params" | "processLogits" | "signal" | "id"> {
  readonly id: string;
  readonly promptIds: ArrayLike<number>;
  readonly expertTokens?: readonly number[] | undefined;
  readonly params: SamplingParams & { readonly seed: number };
  readonly constraint?: { readonly kind: string } | undefined;
}

/** Tells whether a text can be the id of a request. */
export function isRequestId(id: string): boolean {
  return ID.test(id);
}

/** Returns the id of the request that a job is for: the job's own without its last part. */
export function requestIdOf(jobId: string): string {
  return jobId.replace(/\.[^.]*$/, "");
}

/** Writes a request as a job. Values have been checked before. */
export function writeJob(request: JobRequest): FleetJob {
  const { id, promptIds, expertTokens, params: given, priority = 0, prediction, ...others } = request;
  const { expert, client, cacheSalt, traceparent, constraint } = others;
  const { logitBias, stop, stopTokenIds, maxTokens = SAMPLING_PARAMETERS.maxTokens.default, n = 1, ...rest } = given;
  return withoutUndefined({
    version: 1 as const,
    id,
    prompt: Array.from(promptIds),
    expertTokens: expertTokens && [...expertTokens],
    params: withoutUndefined({
      ...rest,
      maxTokens,
      n,
      logitBias: logitBias instanceof Map ? Object.fromEntries(logitBias) : logitBias,
      stop: typeof stop === "string" ? [stop] : stop && [...stop],
      stopTokenIds: stopTokenIds && [...stopTokenIds],
    }),
    expert,
    priority,
    client,
    cacheSalt,
    traceparent,
    prediction: prediction === undefined || typeof prediction === "string" ? prediction : Array.from(prediction),
    constraint,
  });
}

/** Returns how many tokens the choices of a job have at most, within the model's context. */
export function completionTokens(
  job: Pick<FleetJob, "prompt" | "params">,
  { contextTokens }: Pick<EngineInfo, "contextTokens">,
): number {
  const { n, maxTokens } = job.params;
  return n * Math.max(0, Math.min(maxTokens, contextTokens - job.prompt.length));
}

type Present<Fields> = {
  [Name in keyof Fields as undefined extends Fields[Name] ? never : Name]: Fields[Name];
} & { [Name in keyof Fields as undefined extends Fields[Name] ? Name : never]?: Exclude<Fields[Name], undefined> };

/** Leaves out absent fields, as JSON does. */
function withoutUndefined<Fields extends object>(fields: Fields): Present<Fields> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Present<Fields>;
}

/** Reads a job of the queue. @throws {TypeError} on what no front writes; the message quotes nothing of it */
export function readJob(data: unknown): FleetJob {
  const parsed = jobSchema.safeParse(data);
  if (parsed.success) return parsed.data;
  // Deeper names are the job's own.
  const field = parsed.error.issues[0]?.path.slice(0, 2).join(".");
  throw new TypeError(`Expected a job of a front, got another in \`${field || "its fields"}\``);
}
