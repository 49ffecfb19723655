// Multiple-choice questions in the format in which evaluation harnesses write the requests that they send to a model:
// one line for each choice of each document.

import { describeValue, isRecord } from "@readme-moe/core";
import type { Choice, Question } from "@readme-moe/engine/evaluation";
import { badLine, readJsonLines, readTextData } from "../data-files.ts";

interface ChoiceRequest {
  readonly choice: Choice;
  readonly documentId: number | string;
  /** Number of the choice. */
  readonly index: number;
  /** Number of the right choice. */
  readonly label: number;
  /** Number of the line. */
  readonly number: number;
}

/**
 * Reads the documents of a file as questions, in the order of their first lines.
 *
 * @param limit - number of documents. @default all
 * @throws {ReadMeError} naming the file and the wrong line
 */
export async function readQuestions(path: string, limit: number = Infinity): Promise<readonly Question[]> {
  const documents = new Map<number | string, ChoiceRequest[]>();
  for (const { value, number } of readJsonLines(path, await readTextData(path))) {
    const request = requestOf(path, value, number);
    const others = documents.get(request.documentId);
    if (others) addRequest(path, others, request);
    else documents.set(request.documentId, [request]);
  }
  if (documents.size === 0) throw badLine(path, 1, "expected at least one request, the file has none");
  return Array.from(documents.values(), (requests) => questionOf(path, requests)).slice(0, limit);
}

function addRequest(path: string, others: ChoiceRequest[], request: ChoiceRequest): void {
  const { documentId, index, label, number } = request;
  const document = `document ${JSON.stringify(documentId)}`;
  const [first] = others;
  if (first && first.label !== label) {
    throw badLine(path, number, `${document} has the label ${label} here and ${first.label} in line ${first.number}`);
  }
  const same = others.find((other) => other.index === index);
  if (same) throw badLine(path, number, `${document} has the choice ${index} in line ${same.number} already`);
  others.push(request);
}

function questionOf(path: string, requests: readonly ChoiceRequest[]): Question {
  const ordered = requests.toSorted((a, b) => a.index - b.index);
  const answer = ordered.findIndex(({ index, label }) => index === label);
  const [first] = requests;
  if (answer < 0 && first) {
    const choices = ordered.map(({ index }) => index).join(", ");
    const document = `document ${JSON.stringify(first.documentId)}`;
    const problem = `${document} has the label ${first.label}, which is none of its choices ${choices}`;
    throw badLine(path, first.number, problem);
  }
  return { choices: ordered.map(({ choice }) => choice), answer };
}

function requestOf(path: string, line: unknown, number: number): ChoiceRequest {
  if (!isRecord(line)) throw badLine(path, number, "expected an object with `request`, `doc_id`, `idx` and `label`");
  const wrong = (name: string, expectation: string, value: unknown): Error =>
    badLine(path, number, `expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
  const { request } = line;
  if (!isRecord(request)) throw wrong("request", "an object with `context` and `continuation`", request);
  const { context, continuation } = request;
  const { doc_id: documentId, idx: index, label } = line;
  if (typeof context !== "string") throw wrong("request.context", "a string", context);
  if (!isText(continuation)) throw wrong("request.continuation", "a string that is not empty", continuation);
  if (!isCount(documentId) && !isText(documentId)) throw wrong("doc_id", "an integer or a string", documentId);
  if (!isCount(index)) throw wrong("idx", "an integer from 0 up", index);
  if (!isCount(label)) throw wrong("label", "an integer from 0 up", label);
  return { choice: { context, continuation }, documentId, index, label, number };
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
