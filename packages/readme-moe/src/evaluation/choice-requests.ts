// Multiple-choice questions, in the format in which evaluation harnesses dump the requests that they make of a model:
// a line for each choice of each document.

import { describeValue } from "@readme-moe/core";
import type { Choice, Question } from "@readme-moe/engine/evaluation";
import { badLine, linesOf, parseLine, readTextData } from "./text-data.ts";

interface Request {
  readonly choice: Choice;
  readonly documentId: number | string;
  /** Number of the choice. */
  readonly index: number;
  /** Number of the right choice. */
  readonly label: number;
  /** Of the line. */
  readonly number: number;
}

/**
 * The documents of a file, as questions, in the order in which they first occur.
 *
 * @param limit - documents, the first ones. @default all
 * @throws {ReadMeError} naming the file, and the line that is not what it should be
 */
export async function readQuestions(path: string, limit: number = Infinity): Promise<readonly Question[]> {
  const documents = new Map<number | string, Request[]>();
  for (const { line, number } of linesOf(await readTextData(path))) {
    const request = requestOf(path, line, number);
    const others = documents.get(request.documentId);
    if (others) addRequest(path, others, request);
    else documents.set(request.documentId, [request]);
  }
  if (documents.size === 0) throw badLine(path, 1, "expected at least one request, the file has none");
  return Array.from(documents.values(), (requests) => questionOf(path, requests)).slice(0, limit);
}

function addRequest(path: string, others: Request[], request: Request): void {
  const { documentId, index, label, number } = request;
  const document = `document ${JSON.stringify(documentId)}`;
  const [first] = others;
  if (first && first.label !== label)
    throw badLine(path, number, `${document} has the label ${label} here and ${first.label} in line ${first.number}`);
  const same = others.find((other) => other.index === index);
  if (same) throw badLine(path, number, `${document} has the choice ${index} in line ${same.number} already`);
  others.push(request);
}

function questionOf(path: string, requests: readonly Request[]): Question {
  const ordered = requests.toSorted((a, b) => a.index - b.index);
  const [{ label, documentId, number }] = requests as [Request];
  const answer = ordered.findIndex(({ index }) => index === label);
  if (answer < 0) {
    const choices = ordered.map(({ index }) => index).join(", ");
    const document = `document ${JSON.stringify(documentId)}`;
    throw badLine(path, number, `${document} has the label ${label}, which is none of its choices ${choices}`);
  }
  return { choices: ordered.map(({ choice }) => choice), answer };
}

function requestOf(path: string, line: string, number: number): Request {
  const fields = fieldsOf(parseLine(path, line, number));
  if (!fields) throw badLine(path, number, "expected an object with `request`, `doc_id`, `idx` and `label`");
  const expect = (isAsExpected: boolean, name: string, expectation: string, value: unknown): void => {
    if (isAsExpected) return;
    throw badLine(path, number, `expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  };
  const request = fieldsOf(fields["request"]);
  expect(request !== undefined, "request", "an object with `context` and `continuation`", fields["request"]);
  const { context, continuation } = request ?? {};
  const { doc_id: documentId, idx: index, label } = fields;
  expect(typeof context === "string", "request.context", "a string", context);
  expect(isText(continuation), "request.continuation", "a string that is not empty", continuation);
  expect(isNumber(documentId) || isText(documentId), "doc_id", "an integer or a string", documentId);
  expect(isNumber(index), "idx", "an integer from 0 up", index);
  expect(isNumber(label), "label", "an integer from 0 up", label);
  return {
    choice: { context: context as string, continuation: continuation as string },
    documentId: documentId as number | string,
    index: index as number,
    label: label as number,
    number,
  };
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject ? (value as Readonly<Record<string, unknown>>) : undefined;
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

function isNumber(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
