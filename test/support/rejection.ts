import { ReadMeError, type ReadMeErrorCode } from "@readme-moe/core";
import { expect } from "vitest";

/** Expects a `ReadMeError` with this code, whose message contains all of `parts`. */
export async function expectReadMeError(
  promise: Promise<unknown>,
  code: ReadMeErrorCode,
  ...parts: readonly string[]
): Promise<ReadMeError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof ReadMeError))
    throw new Error(`Expected a ReadMeError, got ${String(error)}`, { cause: error });
  expect(error.code).toBe(code);
  for (const part of parts) expect(error.message).toContain(part);
  return error;
}
