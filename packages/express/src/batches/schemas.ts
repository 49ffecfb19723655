// Bodies and answers of `/v1/files` and `/v1/batches`.

import { z } from "zod";
import { pageAnswer } from "../http/pages.ts";

/** Paths that a line of a batch can have. */
export const BATCH_ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"] as const;

export type BatchEndpoint = (typeof BATCH_ENDPOINTS)[number];

/** Time after which a batch expires. */
export const [WINDOW, WINDOW_SECONDS] = ["24h", 24 * 3600] as const;

/** Bounds of a time after which files expire, in seconds. */
export const [MIN_KEPT_SECONDS, MAX_KEPT_SECONDS] = [3600, 30 * 24 * 3600] as const;

const metadata = z
  .record(z.string().max(64), z.string().max(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, "expected at most 16 pairs");

export const batchBody = z.strictObject({
  input_file_id: z.string().min(1).max(64),
  endpoint: z.enum(BATCH_ENDPOINTS),
  completion_window: z.literal(WINDOW),
  metadata: metadata.nullish(),
  output_expires_after: z
    .strictObject({
      anchor: z.literal("created_at"),
      seconds: z.int().min(MIN_KEPT_SECONDS).max(MAX_KEPT_SECONDS),
    })
    .nullish(),
});

export const fileAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("file"),
  bytes: z.int().min(0),
  created_at: z.int(),
  expires_at: z.int(),
  filename: z.string(),
  purpose: z.enum(["batch", "batch_output"]),
  status: z.literal("processed"),
});

export const filesAnswer = pageAnswer(fileAnswer);

export const deletedFile = z.strictObject({ id: z.string(), object: z.literal("file"), deleted: z.literal(true) });

export const batchError = z.strictObject({
  code: z.string(),
  message: z.string(),
  line: z.int().min(1).nullable(),
  param: z.string().nullable(),
});

const counts = z.strictObject({ total: z.int().min(0), completed: z.int().min(0), failed: z.int().min(0) });

const [time, id] = [z.int().nullable(), z.string().nullable()] as const;

export const batchAnswer = z.strictObject({
  id: z.string(),
  object: z.literal("batch"),
  endpoint: z.enum(BATCH_ENDPOINTS),
  errors: z.strictObject({ object: z.literal("list"), data: z.array(batchError) }).nullable(),
  input_file_id: z.string(),
  completion_window: z.literal(WINDOW),
  status: z.enum([
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
  ]),
  output_file_id: id,
  error_file_id: id,
  created_at: z.int(),
  in_progress_at: time,
  expires_at: z.int(),
  finalizing_at: time,
  completed_at: time,
  failed_at: time,
  expired_at: time,
  cancelling_at: time,
  cancelled_at: time,
  request_counts: counts,
  metadata: metadata.nullable(),
});

export const batchesAnswer = pageAnswer(batchAnswer);

export type BatchBody = z.infer<typeof batchBody>;
export type FileAnswer = z.infer<typeof fileAnswer>;
export type BatchError = z.infer<typeof batchError>;
export type BatchAnswer = z.infer<typeof batchAnswer>;
