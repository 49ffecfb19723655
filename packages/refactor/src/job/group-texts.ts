// Assigns calibration texts to experts, and experts to domains.

import { readTextFile, writeFileAtomically } from "@readme-moe/model";
import { clusterTexts, type NeuronEnergy } from "../experts/cluster.ts";
import { layerSource } from "../layers/layer-source.ts";
import { runEnergies } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import type { FittedModel } from "./fit-model.ts";
import type { Grouping, RefactorJob } from "./refactor-job.ts";

type Setting = Omit<RefactorJob, "grouping">;

const MAX_CLUSTER_FILE_BYTES = 16 << 20;

/** Makes one group for each domain, or clusters of sequences that start as domains. */
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
    names: members.map((group, index) => `${index} ${clusterName(group, data)}`),
    groups: members.map((group) => group.map(({ ids }) => ids)),
    domains: members.map((group) => group.map(({ domain }) => domain)),
  };
}

/** Names a cluster by the domains that most of it is from, such as `book+c4`. */
function clusterName(group: readonly { readonly domain: number }[], data: Setting["data"]): string {
  const shares = data.map(({ name }, domain) => ({
    name,
    share: group.filter((one) => one.domain === domain).length / group.length,
  }));
  const [first, ...rest] = shares.toSorted((a, b) => b.share - a.share);
  return [first, ...rest.filter(({ share }) => share >= 0.25)].map((one) => one?.name).join("+");
}

/**
 * Finds the cluster of each calibration sequence; kept in the work folder, since it takes a pass of the dense model.
 */
async function clustersOf(job: Setting, numClusters: number): Promise<readonly number[]> {
  const { data, model, sizes, work } = job;
  const path = work.file("clusters.json");
  const known = await readTextFile(path, MAX_CLUSTER_FILE_BYTES);
  if (known !== undefined) return JSON.parse(known);
  const stream = new TokenStream(
    model.config,
    data.map(({ calibration }) => calibration),
    1,
  );
  const energies = await energiesOf(job, stream);
  const { assignment } = clusterTexts(energies, stream.domains, { numClusters, size: sizes.usedSize });
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

/** Returns the mean cost of each expert on each domain's calibration text, `[domain][expert]`. */
export function domainCosts(
  { data, grouping }: Pick<RefactorJob, "data" | "grouping">,
  { stream, costs, costSequences }: FittedModel,
): readonly Float64Array[] {
  const numExperts = grouping.names.length;
  const domainOf = grouping.domains.flat();
  const size = stream.sequenceTokens * numExperts;
  return data.map((_, domain) => {
    const own = costSequences.filter((sequence) => domainOf[sequence] === domain);
    const sums = new Float64Array(numExperts);
    for (const sequence of own) {
      const rows = costs.subarray(sequence * size, (sequence + 1) * size);
      rows.forEach((cost, at) => (sums[at % numExperts]! += cost));
    }
    // All experts are equally good for a domain without costs.
    return sums.map((sum) => sum / Math.max(1, own.length * stream.sequenceTokens));
  });
}

/** Returns each domain's expert: its own, or the cluster with the lowest cost on the domain. */
export function expertsOfDomains({ isByDomain }: Grouping, costs: readonly Float64Array[]): readonly number[] {
  return costs.map((row, domain) => (isByDomain ? domain : row.indexOf(Math.min(...row))));
}
