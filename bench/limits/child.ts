// One job, in a process of its own.

import { exactInt8Kernels, openModel, type Model } from "@readme-moe/model";
import { median } from "readme-moe/bench";
import { ModelRunner } from "@readme-moe/engine";
import { decodeSteps } from "../decode-steps.ts";
import { randomModel } from "../random-model.ts";
import { engineFigures } from "./engine-figures.ts";
import type { Answers, Job, ModelSpec } from "./jobs.ts";
import { measureMachine } from "./machine.ts";
import { profileFigures } from "./profile-figures.ts";

process.stdout.write(JSON.stringify(await answer(JSON.parse(process.argv[2] as string) as Job)));

async function answer(job: Job): Promise<Answers[Job["kind"]]> {
  if (job.kind === "machine") return measureMachine({ ...job, kernels: await exactInt8Kernels() });
  const model = await modelOf(job.model);
  try {
    if (job.kind === "engine") return await engineFigures(model, job);
    if (job.kind === "profile") return await profileFigures(model, job);
    const runner = await ModelRunner.open(model, job);
    const figures = [];
    for (const one of job.cases) {
      const times = await decodeSteps(runner, one, job.rounds);
      figures.push({ medianMs: median(times), leastMs: Math.min(...times) });
    }
    await runner.dispose();
    return figures;
  } finally {
    await model.close();
  }
}

async function modelOf(spec: ModelSpec): Promise<Model> {
  return "path" in spec ? openModel(spec.path) : randomModel(spec.shape, spec.numExperts, spec.expertSize);
}
