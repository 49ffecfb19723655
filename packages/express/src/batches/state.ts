// The state of a batch, derived from facts that are written once each. Times in seconds since 1970.

import { z } from "zod";
import { BATCH_ENDPOINTS, WINDOW, type BatchAnswer } from "./schemas.ts";

export const batchRecord = z.object({
  id: z.string(),
  client: z.string(),
  /** Name of the client's key. */
  key: z.string().optional(),
  inputFileId: z.string(),
  endpoint: z.enum(BATCH_ENDPOINTS),
  createdAt: z.int(),
  expiresAt: z.int(),
  metadata: z.record(z.string(), z.string()).nullable(),
  /** Time for which its answers are kept. */
  outputSeconds: z.int().optional(),
});

/** Request of a client for a batch. */
export type BatchRecord = z.infer<typeof batchRecord>;

const counts = z.object({ completed: z.int(), failed: z.int() });

export const beat = z.object({
  /** Grows while the owner lives. */
  beat: z.int(),
  /** Whether the owner has given the batch up. */
  isReleased: z.boolean(),
  /** Requests of the batch, once the input was checked. */
  total: z.int().optional(),
  ...counts.shape,
  inProgressAt: z.int().optional(),
  finalizingAt: z.int().optional(),
});

/** Progress of the owner of a batch. */
export type Beat = z.infer<typeof beat>;

export const batchEnd = z.object({
  status: z.enum(["completed", "failed", "expired", "cancelled"]),
  at: z.int(),
  total: z.int(),
  ...counts.shape,
  inProgressAt: z.int().optional(),
  finalizingAt: z.int().optional(),
  outputFileId: z.string().optional(),
  errorFileId: z.string().optional(),
  errors: z
    .array(z.object({ code: z.string(), message: z.string(), line: z.int().nullable(), param: z.string().nullable() }))
    .optional(),
});

/** End of a batch. */
export type BatchEnd = z.infer<typeof batchEnd>;

export const cancelMark = z.object({ at: z.int() });

/** All that is known of a batch. */
export interface BatchFacts {
  readonly record: BatchRecord;
  /** The newest owner's. */
  readonly beat?: Beat | undefined;
  readonly cancellingAt?: number | undefined;
  readonly end?: BatchEnd | undefined;
}

/** Returns the status of a batch. */
export function statusOf({ beat: progress, cancellingAt, end }: Omit<BatchFacts, "record">): BatchAnswer["status"] {
  if (end) return end.status;
  if (cancellingAt !== undefined) return "cancelling";
  if (progress?.finalizingAt !== undefined) return "finalizing";
  return progress?.total === undefined ? "validating" : "in_progress";
}

/** Next action of the owner of a batch. */
export type NextAct = "run" | "complete" | "expire" | "cancel";

/** Progress of a batch that is being run. */
interface Progress {
  readonly expiresAt: number;
  readonly isCancelled: boolean;
  readonly total: number;
  readonly answered: number;
}

/** Decides what happens to a batch. One whose answers are all there is complete, also after its time. */
export function nextAct({ expiresAt, isCancelled, total, answered }: Progress, nowSeconds: number): NextAct {
  if (isCancelled) return "cancel";
  if (answered >= total) return "complete";
  return nowSeconds >= expiresAt ? "expire" : "run";
}

/** Describes a batch as clients see it. */
export function batchAnswerOf(facts: BatchFacts): BatchAnswer {
  const { record, beat: progress, cancellingAt, end } = facts;
  const { total = 0, completed = 0, failed = 0 } = end ?? progress ?? {};
  const endedAs = (status: BatchEnd["status"]): number | null => (end?.status === status ? end.at : null);
  const errors = end?.errors;
  return {
    id: record.id,
    object: "batch",
    endpoint: record.endpoint,
    errors: errors ? { object: "list", data: errors } : null,
    input_file_id: record.inputFileId,
    completion_window: WINDOW,
    status: statusOf(facts),
    output_file_id: end?.outputFileId ?? null,
    error_file_id: end?.errorFileId ?? null,
    created_at: record.createdAt,
    in_progress_at: (end ?? progress)?.inProgressAt ?? null,
    expires_at: record.expiresAt,
    finalizing_at: (end ?? progress)?.finalizingAt ?? null,
    completed_at: endedAs("completed"),
    failed_at: endedAs("failed"),
    expired_at: endedAs("expired"),
    cancelling_at: cancellingAt ?? null,
    cancelled_at: endedAs("cancelled"),
    request_counts: { total, completed, failed },
    metadata: record.metadata,
  };
}
