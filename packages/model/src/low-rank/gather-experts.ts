import { basename, resolve } from "node:path";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import type { Model } from "../folder/model.ts";
import { openExpertSet } from "./expert-set.ts";
import { expertNameProblem } from "./low-rank-expert.ts";
import { type ListedExpert, type LowRankSet, MAX_EXPERTS } from "./low-rank-set.ts";

/** A set that contains one adapter, or all experts of a folder. */
type Part = Pick<LowRankSet, "experts" | "router" | "fingerprint" | "close">;

/**
 * Gathers the low-rank experts of a dense model: those of its own folder, and further ones. Experts that a router
 * chooses among come first, in the router's order.
 *
 * @param further - folders by name. A folder is an adapter of this name, or an expert set; its experts have names of
 *   their own, so that the name is not used
 * @returns a set of all; closing it closes what was opened here, not the model's own set
 * @throws {TypeError} when a name is wrong, or two experts have the same one
 * @throws {ReadMeError} as `openExpertSet`; `ERR_MODEL_UNSUPPORTED` when there are two routers
 */
export async function gatherExperts(
  model: Pick<Model, "path" | "config" | "lowRank">,
  further: Readonly<Record<string, string>> = {},
): Promise<LowRankSet> {
  const parts: Part[] = model.lowRank ? [{ ...model.lowRank, close: async () => undefined }] : [];
  const close = async (): Promise<void> => {
    await Promise.all(parts.map((part) => part.close()));
  };
  try {
    for (const [name, path] of Object.entries(further)) {
      parts.push((await openExpertSet(path, model.config)) ?? oneExpert(name, path));
    }
    const [routed, second] = parts.filter(({ router }) => router !== undefined);
    if (second !== undefined) {
      const message = `${model.path}: two expert sets have a router; experts of one router can be chosen among`;
      throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
    }
    const ordered = routed ? [routed, ...parts.filter((part) => part !== routed)] : parts;
    const experts = ordered.flatMap((part) => part.experts);
    checkNames(experts);
    return {
      path: model.path,
      experts,
      router: routed?.router,
      fingerprint: async (cacheFolder) => routed?.fingerprint(cacheFolder) ?? "",
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Returns the name that an adapter's folder gives its expert.
 * @throws {TypeError} when the folder's own name cannot be one
 */
export function expertNameOf(folder: string): string {
  const name = basename(resolve(folder));
  const problem = expertNameProblem(name);
  if (problem === undefined) return name;
  throw new TypeError(`Expected a name for the expert in ${quoted(folder)}, since a name is ${problem}`);
}

function oneExpert(name: string, path: string): Part {
  return {
    experts: [{ name, path: resolve(path) }],
    router: undefined,
    fingerprint: async () => "",
    close: async () => undefined,
  };
}

function checkNames(experts: readonly ListedExpert[]): void {
  if (experts.length > MAX_EXPERTS) {
    throw new RangeError(`Expected at most ${MAX_EXPERTS} low-rank experts, got ${experts.length}`);
  }
  const names = new Set<string>();
  for (const { name } of experts) {
    const problem = expertNameProblem(name);
    if (problem !== undefined) {
      throw new TypeError(`Expected the name of a low-rank expert to be ${problem}, got ${describeValue(name)}`);
    }
    if (names.has(name))
      throw new TypeError(`Expected names of low-rank experts to be different, got ${quoted(name)} twice`);
    names.add(name);
  }
}
