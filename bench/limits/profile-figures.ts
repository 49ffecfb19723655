// Decode steps of a session that writes the runtime's profile.

import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decoderGraph, ModelRunner } from "@readme-moe/engine";
import type { Calibration, Model } from "@readme-moe/model";
import { InferenceSession } from "onnxruntime-node";
import { decodeSteps } from "../decode-steps.ts";
import { graphParts, type Part } from "./graph-parts.ts";
import type { Job, ProfileFigures } from "./jobs.ts";
import { readProfile, type Profile } from "./profile.ts";

const WARM_UP = 5;

export async function profileFigures(
  model: Model,
  job: Extract<Job, { readonly kind: "profile" }>,
): Promise<readonly ProfileFigures[]> {
  const parts = graphParts(decoderGraph(model, { precision: job.precision, calibration: NOT_READ }));
  const figures: ProfileFigures[] = [];
  for (const one of job.cases) {
    const folder = await mkdtemp(join(tmpdir(), "readme-moe-profile-"));
    try {
      const restore = profileInto(join(folder, "profile"));
      const runner = await ModelRunner.open(model, job).finally(restore);
      await decodeSteps(runner, one, job.rounds, WARM_UP);
      await runner.dispose();
      const [file] = await readdir(folder);
      if (file === undefined) throw new Error("The graph was not opened from the cache, so there is no profile");
      figures.push(profileSums(readProfile(await readFile(join(folder, file), "utf8"), WARM_UP), parts));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  return figures;
}

/** Nodes by part of the graph, and by their type. */
export function profileSums({ nodes }: Profile, partOf: ReadonlyMap<string, Part>): ProfileFigures {
  const parts: Partial<Record<Part, number>> = {};
  const types = new Map<string, { readonly type: string; count: number; ms: number }>();
  let numUnknown = 0;
  for (const { name, type, us } of nodes) {
    const known = partOf.get(name);
    if (known === undefined) numUnknown++;
    const part = known ?? "inputs, masks, outputs";
    parts[part] = (parts[part] ?? 0) + us / 1000;
    const sum = types.get(type) ?? { type, count: 0, ms: 0 };
    types.set(type, sum);
    sum.count++;
    sum.ms += us / 1000;
  }
  const sorted = [...types.values()].toSorted((a, b) => b.ms - a.ms);
  return { parts, types: sorted, numNodes: nodes.length, numUnknown };
}

/** Sessions that are made from now on, of graphs in files, write their profiles. @returns ends it */
function profileInto(profileFilePrefix: string): () => void {
  const create = Reflect.get(InferenceSession, "create") as (...args: readonly unknown[]) => Promise<InferenceSession>;
  const profiled = (model: unknown, options: object): Promise<InferenceSession> => {
    const added = typeof model === "string" ? { enableProfiling: true, profileFilePrefix } : {};
    return create.call(InferenceSession, model, { ...options, ...added });
  };
  Object.assign(InferenceSession, { create: profiled });
  return () => void Object.assign(InferenceSession, { create });
}

// Weights are fitted when a graph is written, which this one is not.
const refuse = (): never => {
  throw new Error("The graph is only looked at");
};
const NOT_READ: Calibration = { inputMax: refuse, inputSquares: refuse };
