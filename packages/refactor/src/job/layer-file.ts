// Result of one layer as a file of the work folder: all families of experts that a report compares.

import { writeSafetensors, type SafetensorsFile, type SafetensorsInput } from "@readme-moe/model";
import type { LayerExperts, Part } from "../experts/layer-experts.ts";
import { withFile } from "./work-folder.ts";

/** Figures of a layer for the report, by name. */
export type LayerFigures = Readonly<Record<string, readonly number[]>>;

/** Numbers of neurons of a layer's parts. */
export interface LayerSizes {
  readonly expertSize: number;
  /** 0 for none. */
  readonly sharedSize: number;
}

/** @param families - experts by the name of their family */
export async function writeLayerFile(
  path: string,
  families: Readonly<Record<string, LayerExperts>>,
  figures: LayerFigures,
): Promise<void> {
  const tensors = Object.entries(families).flatMap(([family, { shared, experts }]) => [
    ...(shared ? partTensors(`${family}.shared`, shared) : []),
    ...experts.flatMap((part, index) => partTensors(`${family}.${index}`, part)),
  ]);
  await writeSafetensors(path, tensors, { figures: JSON.stringify(figures) });
}

export function readFamily(path: string, family: string): Promise<LayerExperts> {
  return withFile(path, async (file) => {
    const shared = file.has(`${family}.shared.neurons`) ? await readPart(file, `${family}.shared`) : undefined;
    const experts: Part[] = [];
    while (file.has(`${family}.${experts.length}.neurons`)) {
      experts.push(await readPart(file, `${family}.${experts.length}`));
    }
    return { shared, experts };
  });
}

/** Reads a single part of a family. */
export function readOnePart(path: string, family: string, which: number | "shared"): Promise<Part> {
  return withFile(path, (file) => readPart(file, `${family}.${which}`));
}

export function readSizes(path: string, family: string): Promise<LayerSizes> {
  return withFile(path, (file) => {
    const sizeOf = (part: string): number => {
      const name = `${family}.${part}.neurons`;
      return file.has(name) ? (file.info(name).shape[0] ?? 0) : 0;
    };
    return { expertSize: sizeOf("0"), sharedSize: sizeOf("shared") };
  });
}

/** Reads all families that a file has of `names`, and the layer's figures. */
export async function readFamilies(
  path: string,
  names: readonly string[],
): Promise<{ readonly families: Readonly<Record<string, LayerExperts>>; readonly figures: LayerFigures }> {
  const families: Record<string, LayerExperts> = {};
  for (const name of names) {
    const family = await readFamily(path, name);
    if (family.experts.length > 0) families[name] = family;
  }
  return { families, figures: await readFigures(path) };
}

export function readFigures(path: string): Promise<LayerFigures> {
  return withFile(path, ({ metadata }): LayerFigures => JSON.parse(metadata.get("figures") ?? "{}"));
}

function partTensors(prefix: string, { neurons, down, bias }: Part): readonly SafetensorsInput[] {
  const tensor = (name: string, type: "I32" | "F32", shape: readonly number[], values: Int32Array | Float32Array) => ({
    name: `${prefix}.${name}`,
    type,
    shape,
    bytes: async () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  });
  return [
    tensor("neurons", "I32", [neurons.length], neurons),
    tensor("down", "F32", [bias.length, neurons.length], down),
    tensor("bias", "F32", [bias.length], bias),
  ];
}

async function readPart(file: SafetensorsFile, prefix: string): Promise<Part> {
  const bytes = await file.readBytes(`${prefix}.neurons`);
  return {
    neurons: new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4).slice(),
    down: await file.readFloats(`${prefix}.down`),
    bias: await file.readFloats(`${prefix}.bias`),
  };
}
