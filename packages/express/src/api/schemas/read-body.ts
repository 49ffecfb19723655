// From what a client sent to a checked body, or to an error that names the parameter.

import { describeValue, nearestName } from "@readme-moe/core";
import type { z } from "zod";
import { badRequest, type ApiError } from "../../http/api-error.ts";
import { boundBody } from "./bound-body.ts";
import { NEUTRAL_NAMES } from "./fields.ts";

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** @throws {ApiError} 400, naming the first parameter that is wrong */
export function readBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw badRequest({ message: "Expected the body to be a JSON object", code: "invalid_value" });
  }
  boundBody(body);
  const result = schema.safeParse(body, { reportInput: true });
  if (result.success) return result.data;
  throw errorOf(result.error.issues, shapeOf(schema));
}

export function unsupported(param: string, message = `'${param}' is not supported`): ApiError {
  return badRequest({ message, code: "unsupported_parameter", param });
}

function errorOf(issues: readonly Issue[], known: readonly string[]): ApiError {
  const { issue, path } = innermost(issues);
  const param = shorten(nameOf(path));
  if (issue.code === "unrecognized_keys") {
    const key = issue.keys[0] ?? "";
    const name = shorten(nameOf([...path, key]));
    // Comparing takes time in proportion to the name's length.
    const near = path.length === 0 && key.length <= 64 ? nearestName(key, known) : undefined;
    return unsupported(name, `'${name}' is not supported${near ? `; did you mean '${near}'?` : ""}`);
  }
  const last = path.at(-1);
  if (typeof last === "string" && NEUTRAL_NAMES.has(last) && issue.input !== undefined) return unsupported(param);
  if (isPartType(path) && typeof issue.input === "string") {
    return unsupported(param, `Content parts of type '${shorten(issue.input)}' are not supported`);
  }
  if (issue.code.startsWith("invalid_") && issue.input === undefined) {
    return badRequest({ message: `'${param}' is missing`, code: "missing_required_parameter", param });
  }
  return badRequest({ message: `Invalid '${param}': ${whatIsWrong(issue)}`, code: "invalid_value", param });
}

/** Of alternatives that all failed at the same place, what each of them expected. */
function whatIsWrong(issue: Issue): string {
  if (issue.code !== "invalid_union") return lower(issue.message);
  const expected = issue.errors.flat().flatMap((inner) => {
    if (inner.code === "invalid_type") return [inner.expected];
    return inner.code === "invalid_value" ? inner.values.map((value) => JSON.stringify(value)) : [];
  });
  if (expected.length === 0) return lower(issue.message);
  return `expected ${[...new Set(expected)].join(" or ")}, got ${describeValue(issue.input)}`;
}

interface Found {
  readonly issue: Issue;
  readonly path: Path;
}

/** The issue that says most: of alternatives, the one that got furthest. */
function innermost(issues: readonly Issue[], outer: Path = []): Found {
  const found = issues.map((issue): Found => {
    const path = [...outer, ...issue.path];
    if (issue.code !== "invalid_union" || issue.errors.length === 0) return { issue, path };
    const inner = issue.errors.filter((errors) => errors.length > 0).map((errors) => innermost(errors, path));
    const deepest = inner.toSorted((a, b) => b.path.length - a.path.length)[0];
    return deepest && deepest.path.length > path.length ? deepest : { issue, path };
  });
  // What kind a part is says more than that it has the fields of another kind.
  const first = found.find(({ path }) => isPartType(path)) ?? found[0];
  if (!first) throw new TypeError("Expected at least one issue");
  return first;
}

function isPartType(path: Path): boolean {
  return path.at(-1) === "type" && typeof path.at(-2) === "number" && path.at(-3) === "content";
}

/** Such as `messages[0].content`. */
function nameOf(path: Path): string {
  return path.reduce<string>(
    (name, part) =>
      typeof part === "number" ? `${name}[${part}]` : name === "" ? String(part) : `${name}.${String(part)}`,
    "",
  );
}

function shapeOf(schema: z.ZodType): readonly string[] {
  return "shape" in schema ? Object.keys(schema.shape as object) : [];
}

function lower(message: string): string {
  const text = message.replace(/^Invalid (input|option|string): /, "");
  return text.charAt(0).toLowerCase() + text.slice(1);
}

function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
