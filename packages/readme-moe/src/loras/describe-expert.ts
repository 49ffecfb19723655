import { megabytes } from "@readme-moe/core";
import { openLora, type ListedExpert, type Lora, type Model } from "@readme-moe/model";

/** An expert as commands show it; fields are spelled as in JSON. */
export interface ExpertDescription {
  readonly name: string;
  readonly path: string;
  /** All ranks of its changes, ascending. */
  readonly ranks: readonly number[];
  /** Modules that it changes in at least one layer, by the last parts of their names. */
  readonly modules: readonly string[];
  readonly layers: number;
  readonly parameters: number;
  /** Size of its tensors in the file. */
  readonly bytes: number;
}

/** Names of products, as Hugging Face's checkpoints have them, in their order within a layer. */
const MODULES = {
  query: "q_proj",
  key: "k_proj",
  value: "v_proj",
  attentionOutput: "o_proj",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
} as const;

/** Opens experts one by one, and describes them. @throws {ReadMeError} for the first one that cannot be taken */
export async function describeExperts(
  experts: readonly ListedExpert[],
  model: Pick<Model, "config" | "experts">,
): Promise<readonly ExpertDescription[]> {
  const descriptions: ExpertDescription[] = [];
  for (const { name, path } of experts) {
    const expert = await openLora(path, name, model);
    descriptions.push(describeExpert(expert));
    await expert.close();
  }
  return descriptions;
}

function describeExpert({ name, path, layers, head, numParameters }: Lora): ExpertDescription {
  const changes = [...layers.flatMap((layer) => Object.values(layer)), ...(head ? [head] : [])];
  const products = new Set(layers.flatMap((layer) => Object.keys(layer)));
  const modules = Object.entries(MODULES).flatMap(([product, module]) => (products.has(product) ? [module] : []));
  // Products of one module share a tensor.
  const tensors = new Map(changes.flatMap(({ a, b }) => [a, b]).map((ref) => [ref.name, ref]));
  return {
    name,
    path,
    ranks: [...new Set(changes.map(({ rank }) => rank))].toSorted((a, b) => a - b),
    modules: [...modules, ...(head ? ["lm_head"] : [])],
    layers: layers.filter((layer) => Object.keys(layer).length > 0).length,
    parameters: numParameters,
    bytes: Array.from(tensors.values()).reduce((sum, ref) => sum + ref.store.info(ref.name).byteLength, 0),
  };
}

export function expertLine({ name, ranks, modules, layers, parameters, bytes }: ExpertDescription): string {
  const rank = ranks.length > 1 ? `ranks ${ranks.join(", ")}` : `rank ${ranks[0]}`;
  const where = layers === 0 ? modules.join(", ") : `${modules.join(", ")} in ${layers} layers`;
  return `${name.padEnd(20)}  ${rank}  ${where}  ${parameters} parameters  ${megabytes(bytes)}`;
}
