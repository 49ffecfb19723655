// Runs one job in its own process.

import { openModel, type Model } from "@readme-moe/model";
import { randomModel } from "../random-model.ts";
import { engineFigures } from "./engine-figures.ts";
import type { Answers, Job, ModelSpec } from "./jobs.ts";
import { measureMachine } from "./machine.ts";
import { readTurns } from "./read-turns.ts";
import { stepTurns } from "./step-turns.ts";

process.stdout.write(JSON.stringify(await answer(JSON.parse(process.argv[2] as string) as Job)));

async function answer(job: Job): Promise<Answers[Job["kind"]]> {
  if (job.kind === "machine") return measureMachine(job);
  const models: Model[] = [];
  try {
    for (const spec of job.kind === "turns" ? job.models : [job.model]) models.push(await modelOf(spec));
    if (job.kind === "turns") return await stepTurns(models, job);
    const [model] = models as [Model];
    if (job.kind === "reading") return await readTurns(model, job);
    return await engineFigures(model, job);
  } finally {
    for (const model of models) await model.close();
  }
}

async function modelOf(spec: ModelSpec): Promise<Model> {
  return "path" in spec ? openModel(spec.path) : randomModel(spec.shape, spec.numExperts, spec.expertSize);
}
