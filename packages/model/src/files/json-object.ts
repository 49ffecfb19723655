import { describeValue, ReadMeError } from "@readme-moe/core";

/** An object of a JSON file, whose fields have not been looked at. */
export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @throws {ReadMeError} `ERR_FILE_CORRUPT` naming `path` and `where` when `value` is no JSON object */
export function expectObject(path: string, where: string, value: unknown): JsonObject {
  if (isJsonObject(value)) return value;
  throw corrupt(path, `expected ${where} to be an object, got ${describeValue(value)}`);
}

export function corrupt(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_FILE_CORRUPT", `${path}: ${message}`, options);
}

export function unsupported(path: string, message: string, options?: ErrorOptions): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${message}`, options);
}
