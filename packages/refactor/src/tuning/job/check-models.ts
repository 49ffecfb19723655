import { ReadMeError } from "@readme-moe/core";
import type { Model } from "@readme-moe/model";

const SHARED = [
  "vocabSize",
  "hiddenSize",
  "numLayers",
  "numHeads",
  "numKvHeads",
  "headSize",
  "rmsNormEpsilon",
  "qkNorm",
  "activation",
  "embeddingScale",
  "residualScale",
  "attentionScale",
  "logitScale",
] as const;

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` unless a Read-ME folder with a router and its dense model came */
export function checkModels(student: Model, teacher: Model): void {
  if (student.kind !== "read-me")
    throw unsupported(student, `is no Read-ME model (${student.kind}); only those are tuned`);
  if (student.experts.names.length > 1 && !student.router) {
    throw unsupported(student, "has no router, so it is not known which expert a token is for");
  }
  if (teacher.kind !== "dense")
    throw unsupported(teacher, `is no dense model (${teacher.kind}), so it cannot be the teacher`);
  for (const name of SHARED) {
    const [found, expected] = [teacher.config[name], student.config[name]];
    if (found !== expected) throw notItsBase(teacher, `${name} ${found}`, `${expected}`);
  }
  const [found, expected] = [teacher, student].map(({ config }) =>
    JSON.stringify([config.rope, config.slidingWindows]),
  );
  if (found !== expected) throw notItsBase(teacher, "other positions", "its own");
}

function notItsBase(teacher: Model, found: string, expected: string): ReadMeError {
  return unsupported(teacher, `cannot be the teacher: it has ${found}, the model that is tuned has ${expected}`);
}

function unsupported({ path }: Model, problem: string): ReadMeError {
  return new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: ${problem}`);
}
