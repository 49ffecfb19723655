// What one layer became, as a file of the work folder: all families of experts that a report compares.

import { SafetensorsFile, writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import type { LayerExperts, Part } from "../experts/layer-experts.ts";

/** Experts by the name of their family. */
export type LayerFamilies = Readonly<Record<string, LayerExperts>>;

/** Figures that go into the report, by name. */
export type LayerFigures = Readonly<Record<string, readonly number[]>>;

export async function writeLayerFile(path: string, families: LayerFamilies, figures: LayerFigures): Promise<void> {
  const tensors = Object.entries(families).flatMap(([family, { shared, experts }]) => [
    ...(shared ? partTensors(`${family}.shared`, shared) : []),
    ...experts.flatMap((part, index) => partTensors(`${family}.${index}`, part)),
  ]);
  await writeSafetensors(path, tensors, { figures: JSON.stringify(figures) });
}

export async function readFamily(path: string, family: string): Promise<LayerExperts> {
  const file = await SafetensorsFile.open(path);
  try {
    const shared = file.has(`${family}.shared.neurons`) ? await readPart(file, `${family}.shared`) : undefined;
    const experts: Part[] = [];
    while (file.has(`${family}.${experts.length}.neurons`)) {
      experts.push(await readPart(file, `${family}.${experts.length}`));
    }
    return { shared, experts };
  } finally {
    await file.close();
  }
}

/** One part of a family alone. */
export async function readOnePart(path: string, family: string, which: number | "shared"): Promise<Part> {
  const file = await SafetensorsFile.open(path);
  try {
    return await readPart(file, `${family}.${which}`);
  } finally {
    await file.close();
  }
}

/** Neurons of the parts of a layer. */
export interface LayerSizes {
  readonly expertSize: number;
  /** 0 for none. */
  readonly sharedSize: number;
}

export async function readSizes(path: string, family: string): Promise<LayerSizes> {
  const file = await SafetensorsFile.open(path);
  await file.close();
  const sizeOf = (part: string): number => {
    const name = `${family}.${part}.neurons`;
    return file.has(name) ? (file.info(name).shape[0] as number) : 0;
  };
  return { expertSize: sizeOf("0"), sharedSize: sizeOf("shared") };
}

export async function readFigures(path: string): Promise<LayerFigures> {
  const file = await SafetensorsFile.open(path);
  await file.close();
  return JSON.parse(file.metadata.get("figures") ?? "{}") as LayerFigures;
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
