// An opened delta file. Its description is checked at once, its tensors when they are read.

import { crc32, gunzipSync } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import { SafetensorsFile } from "@readme-moe/model";
import type { BasePrint } from "./base-model.ts";
import * as format from "./delta-format.ts";
import { scaleShape, type InputScales, type ScaleSizes } from "./input-scales.ts";
import { tablesOf, type SymbolTables } from "./integer-codes.ts";
import { maskBytes, neuronsOf, type PartId } from "./neurons.ts";

/** Sizes that masks have to fit. `expert` and `shared` are neurons per part, by layer. */
export interface PartSizes {
  readonly numLayers: number;
  readonly denseSize: number;
  readonly expert: (layer: number) => number;
  readonly shared: (layer: number) => number;
}

/** A delta file. Every failure is a `ReadMeError` that names the file and, where one is at fault, the tensor. */
export class DeltaFile {
  readonly path: string;
  readonly content: format.DeltaContent;
  readonly #file: SafetensorsFile;

  private constructor(file: SafetensorsFile, content: format.DeltaContent) {
    this.path = file.path;
    this.content = content;
    this.#file = file;
  }

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` for another format or version */
  static async open(path: string): Promise<DeltaFile> {
    const file = await SafetensorsFile.open(path);
    try {
      return new DeltaFile(file, format.parseMetadata(path, file.metadata));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Reads a tensor's bytes and compares them with their checksum. */
  async read(name: string): Promise<Uint8Array> {
    const bytes = await this.#file.readBytes(name);
    if (crc32(bytes) !== this.content.checksums[name]) throw this.problem(name, "is damaged");
    return bytes;
  }

  /** Checks the type and, where it is given, the shape of a tensor. */
  checkInfo(name: string, type: string, shape?: readonly number[]): void {
    const found = this.#file.info(name);
    if (found.type === type && (!shape || found.shape.join() === shape.join())) return;
    const wanted = shape ? `[${shape.join(", ")}] of ${type}` : type;
    throw this.problem(name, `has shape [${found.shape.join(", ")}] of ${found.type}, not ${wanted}`);
  }

  /** Reads every tensor once. */
  async check(): Promise<void> {
    for (const name of this.#file.names) await this.read(name);
  }

  async floats(name: string): Promise<Float32Array> {
    this.checkInfo(name, "F32");
    const bytes = await this.read(name);
    return new Float32Array(bytes.buffer, 0, bytes.byteLength / 4);
  }

  async basePrint(): Promise<BasePrint> {
    return { sha256: this.content.base.sha256, samples: await this.floats(format.SAMPLES) };
  }

  async tables(): Promise<SymbolTables> {
    this.checkInfo(format.FREQUENCIES, "I16");
    const bytes = await this.read(format.FREQUENCIES);
    const tables = tablesOf(new Uint16Array(bytes.buffer, 0, bytes.byteLength / 2));
    if (!tables) throw this.problem(format.FREQUENCIES, "holds no table of symbols");
    return tables;
  }

  /** @returns `undefined` where the file has no scales */
  async scales(sizes: ScaleSizes): Promise<InputScales | undefined> {
    if (!this.#file.names.includes(format.SCALES)) return undefined;
    this.checkInfo(format.SCALES, "U8", scaleShape(sizes));
    return { codes: await this.read(format.SCALES), sizes };
  }

  /** Reads the neurons of each part, by layer. */
  async neurons(sizes: PartSizes): Promise<readonly ReadonlyMap<PartId, Int32Array>[]> {
    const { numLayers, denseSize } = sizes;
    const [numParts, width] = [this.content.experts.length + 1, maskBytes(denseSize)];
    this.checkInfo(format.MASKS, "U8", [numLayers, numParts, width]);
    const masks = await this.read(format.MASKS);
    return Array.from({ length: numLayers }, (_, layer) => {
      const found = new Map<PartId, Int32Array>();
      for (let part = 0; part < numParts; part++) {
        const from = (layer * numParts + part) * width;
        const isShared = part === numParts - 1;
        const size = isShared ? sizes.shared(layer) : sizes.expert(layer);
        const neurons = neuronsOf(masks.subarray(from, from + width), denseSize, size);
        if (!neurons) throw this.problem(format.MASKS, `does not name ${size} neurons of layer ${layer}`);
        found.set(isShared ? "shared" : part, neurons);
      }
      return found;
    });
  }

  async documents(): Promise<format.Documents> {
    const documents = unpackDocuments(await this.read(format.DOCUMENTS));
    if (!documents) throw this.problem(format.DOCUMENTS, "holds no documents");
    return documents;
  }

  problem(tensor: string, what: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.path}: tensor ${JSON.stringify(tensor)} ${what}`);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function unpackDocuments(bytes: Uint8Array): format.Documents | undefined {
  try {
    const maxOutputLength = 4 * format.MAX_DOCUMENT_BYTES;
    const json: unknown = JSON.parse(gunzipSync(bytes, { maxOutputLength }).toString("utf8"));
    return isDocuments(json) ? json : undefined;
  } catch {
    return undefined;
  }
}

function isDocuments(json: unknown): json is format.Documents {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return false;
  return Object.entries(json).every(([name, text]) => format.DOCUMENT_NAME.test(name) && typeof text === "string");
}
