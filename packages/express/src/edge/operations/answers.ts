// What the routes of operations answer: for the OpenAPI description, and tests that hold answers against it.

import { z } from "zod";
import { MODEL_STATES } from "../models/model-entry.ts";

const load = {
  active: z.int().min(0).optional().describe("Requests with a first token"),
  queued: z.int().min(0).optional().describe("Requests without one"),
  capacity: z.int().min(1).optional().describe("Requests that may be in"),
};

export const healthAnswer = z.strictObject({ status: z.literal("ok"), ...load });

export const readyAnswer = z.strictObject({
  status: z.literal("ready"),
  models: z.array(
    z.strictObject({
      name: z.string(),
      state: z.enum(MODEL_STATES),
      code: z.string().optional().describe("Of the error that it is not ready for"),
    }),
  ),
  ...load,
});

export const liveAnswer = z.strictObject({ status: z.literal("alive") });

export const versionAnswer = z.strictObject({ version: z.string() });

export const unavailableAnswer = z.strictObject({
  error: z.strictObject({ code: z.literal(503), message: z.string(), type: z.literal("unavailable_error") }),
});
