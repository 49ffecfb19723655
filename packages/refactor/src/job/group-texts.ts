// Which calibration texts make which expert.

import { readTextFile, writeFileAtomically } from "@readme-moe/model";
import { clusterTexts, type NeuronEnergy } from "../experts/cluster.ts";
import { layerSource } from "../layers/layer-source.ts";
import { runEnergies } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import type { RefactorJob } from "../refactor.ts";

export interface Grouping {
  /** One expert for each domain, in their order. */
  readonly isByDomain: boolean;
  /** Names of the experts, all different. */
  readonly names: readonly string[];
  /** Of each expert, its calibration sequences. */
  readonly groups: readonly (readonly Int32Array[])[];
  /** Like `groups`: the domain that each sequence is from. */
  readonly domains: readonly (readonly number[])[];
}

type Setting = Omit<RefactorJob, "grouping">;

/** One expert for each domain, or clusters of sequences that begin as domains. */
export async function groupTexts(job: Setting): Promise<Grouping> {
  const { data, options } = job;
  const numExperts = options.experts ?? data.length;
  if (options.expertsFrom === "domains" && numExperts === data.length) {
    return {
      isByDomain: true,
      names: data.map(({ name }) => name),
      groups: data.map(({ calibration }) => calibration),
      domains: data.map(({ calibration }, domain) => calibration.map(() => domain)),
    };
  }
  const assignment = await clustersOf(job, numExperts);
  const sequences = data.flatMap(({ calibration }, domain) => calibration.map((ids) => ({ ids, domain })));
  const members = Array.from({ length: numExperts }, (_, expert) =>
    sequences.filter((_sequence, index) => assignment[index] === expert),
  ).filter((group) => group.length > 0);
  return {
    isByDomain: false,
    names: members.map((group, index) => `${index} ${commonest(group, data)}`),
    groups: members.map((group) => group.map(({ ids }) => ids)),
    domains: members.map((group) => group.map(({ domain }) => domain)),
  };
}

/** The domains that most of a cluster is from, such as `book+c4`. */
function commonest(group: readonly { readonly domain: number }[], data: Setting["data"]): string {
  const shares = data.map(({ name }, domain) => ({
    name,
    share: group.filter((one) => one.domain === domain).length / group.length,
  }));
  const [first, ...rest] = shares.toSorted((a, b) => b.share - a.share);
  return [first, ...rest.filter(({ share }) => share >= 0.25)].map((one) => one?.name).join("+");
}

/** Cluster of each calibration sequence; kept in the work folder, since it takes a pass of the dense model. */
async function clustersOf(job: Setting, numExperts: number): Promise<readonly number[]> {
  const { data, model, sizes, work } = job;
  const path = work.file("clusters.json");
  const known = await readTextFile(path, 16 << 20);
  if (known !== undefined) return JSON.parse(known) as number[];
  const stream = new TokenStream(
    model.config,
    data.map(({ calibration }) => calibration),
    1,
  );
  const energies = await energiesOf(job, stream);
  const { assignment } = clusterTexts(energies, stream.domains, numExperts, sizes.usedSize);
  await writeFileAtomically(path, JSON.stringify(assignment));
  return assignment;
}

async function energiesOf({ model, run, stages }: Setting, stream: TokenStream): Promise<readonly NeuronEnergy[]> {
  const { numLayers } = model.config;
  const hidden = await stream.embed(model);
  const energies: Float32Array[][] = stream.sequences.map(() => []);
  for (let index = 0; index < numLayers; index++) {
    const layer = await runEnergies({ source: layerSource(model, index), stream, options: run }, hidden);
    layer.forEach((energy, sequence) => energies[sequence]?.push(energy));
    stages.report("clusters", index + 1, numLayers);
  }
  return energies;
}
