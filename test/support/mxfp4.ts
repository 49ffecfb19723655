// Weights in MXFP4, and checkpoints of such weights as compressed-tensors writes them.

import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeFloats, SafetensorsFile, type SafetensorsInput, writeSafetensors } from "@readme-moe/model";

const BLOCK = 32;
/** Magnitudes of FP4 (E2M1). */
const MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6] as const;

/** A code for each value, and an exponent for each 32. */
export interface Mxfp4Weights {
  readonly codes: Uint8Array;
  readonly exponents: Uint8Array;
}

export function mxfp4Value({ codes, exponents }: Mxfp4Weights, index: number): number {
  const code = codes[index]!;
  return (code < 8 ? 1 : -1) * MAGNITUDES[code % 8]! * 2 ** (exponents[Math.floor(index / BLOCK)]! - 127);
}

/** Rounds to the nearest values. Values that are in MXFP4 already stay as they are. */
export function quantizeMxfp4(values: Float32Array): Mxfp4Weights {
  const exponents = Uint8Array.from({ length: values.length / BLOCK }, (_, block) => {
    const largest = Math.max(...values.subarray(block * BLOCK, (block + 1) * BLOCK).map(Math.abs));
    return largest === 0 ? 0 : 127 + Math.floor(Math.log2(largest)) - 2;
  });
  const codes = Uint8Array.from(values, (value, index) => {
    const scaled = Math.abs(value) / 2 ** (exponents[Math.floor(index / BLOCK)]! - 127);
    const distances = MAGNITUDES.map((magnitude) => Math.abs(magnitude - scaled));
    const code = distances.indexOf(Math.min(...distances));
    return value < 0 && code > 0 ? code + 8 : code;
  });
  return { codes, exponents };
}

/** Blocks of a GGUF file: the exponent, then values i and i + 16 in byte i. */
export function ggufMxfp4({ codes, exponents }: Mxfp4Weights): Uint8Array {
  const block = (exponent: number, at: number): number[] => {
    const pairs = Array.from({ length: 16 }, (_, i) => codes[BLOCK * at + i]! + 16 * codes[BLOCK * at + i + 16]!);
    return [exponent, ...pairs];
  };
  return Uint8Array.from(Array.from(exponents, block).flat());
}

/** The two tensors of compressed-tensors, which replace `name`: values 2i and 2i + 1 in byte i. */
export function packedMxfp4(
  name: string,
  [rows, columns]: readonly [rows: number, columns: number],
  { codes, exponents }: Mxfp4Weights,
): readonly SafetensorsInput[] {
  const packed = Uint8Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i]! + 16 * codes[2 * i + 1]!);
  return [
    { name: `${name}_packed`, type: "U8", shape: [rows, columns / 2], bytes: async () => packed },
    { name: `${name}_scale`, type: "U8", shape: [rows, columns / BLOCK], bytes: async () => exponents },
  ];
}

/** The `quantization_config` that llm-compressor writes for its scheme MXFP4A16. */
export const MXFP4_CONFIG = {
  quant_method: "compressed-tensors",
  format: "mxfp4-pack-quantized",
  quantization_status: "compressed",
  config_groups: {
    group_0: {
      format: "mxfp4-pack-quantized",
      targets: ["Linear"],
      weights: {
        num_bits: 4,
        type: "float",
        strategy: "group",
        group_size: 32,
        symmetric: true,
        scale_dtype: "torch.uint8",
      },
    },
  },
  ignore: ["lm_head"],
  kv_cache_scheme: null,
  sparsity_config: {},
  transform_config: {},
} as const;

/**
 * Rounds a model's matrices to MXFP4, and writes them in two folders.
 *
 * @param ignored - matrices that are not rounded
 * @returns `packed`, as compressed-tensors writes them, and `floats`, a checkpoint of the same values in float32
 */
export async function writeMxfp4Folders(
  from: string,
  home: string,
  ignored: RegExp,
): Promise<{ readonly packed: string; readonly floats: string }> {
  const [packed, floats] = [join(home, "packed"), join(home, "floats")];
  for (const folder of [packed, floats]) {
    await mkdir(home, { recursive: true });
    await cp(from, folder, { recursive: true });
  }
  const store = await SafetensorsFile.open(join(from, "model.safetensors"));
  const inputs: Record<"packed" | "floats", SafetensorsInput[]> = { packed: [], floats: [] };
  for (const name of store.names) {
    const { shape } = store.info(name);
    const values = await store.readFloats(name);
    const [rows = 0, columns = 1] = shape;
    const isRounded = shape.length === 2 && columns % BLOCK === 0 && !ignored.test(name);
    const own = isRounded ? quantizeMxfp4(values) : undefined;
    const plain = own ? values.map((_, index) => mxfp4Value(own, index)) : values;
    const input = { name, type: "F32", shape, bytes: async () => encodeFloats(plain, "F32") } as const;
    inputs.floats.push(input);
    inputs.packed.push(...(own ? packedMxfp4(name, [rows, columns], own) : [input]));
  }
  await store.close();
  await writeSafetensors(join(packed, "model.safetensors"), inputs.packed);
  await writeSafetensors(join(floats, "model.safetensors"), inputs.floats);
  const config: object = JSON.parse(await readFile(join(from, "config.json"), "utf8"));
  await writeFile(join(packed, "config.json"), JSON.stringify({ ...config, quantization_config: MXFP4_CONFIG }));
  return { packed, floats };
}
