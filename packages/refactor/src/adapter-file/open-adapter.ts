// An adapter file, opened: its description checked, its tensors read and checked when asked for.

import { crc32 } from "node:zlib";
import { ReadMeError } from "@readme-moe/core";
import { SafetensorsFile } from "@readme-moe/model";
import type { BasePrint } from "./base-print.ts";
import * as content from "./content.ts";
import { NUM_CONTEXTS } from "./contexts.ts";
import { contentDigest } from "./digest.ts";
import { unpackDocuments, type Documents } from "./documents.ts";
import { scaleShape, type InputScales, type ScaleSizes } from "./input-scales.ts";
import { maskBytes, neuronsOf } from "./masks.ts";
import type { PartId } from "./part-neurons.ts";
import { NUM_SYMBOLS, tablesOf, type SymbolTables } from "./symbols.ts";

/** One adapter file. Everything that fails is a `ReadMeError` that names the file, and the tensor where it is one's. */
export class AdapterFile {
  readonly path: string;
  readonly content: content.AdapterContent;
  readonly #file: SafetensorsFile;

  private constructor(file: SafetensorsFile, description: content.AdapterContent) {
    this.path = file.path;
    this.content = description;
    this.#file = file;
  }

  /** @throws {ReadMeError} `ERR_FILE_CORRUPT`; `ERR_MODEL_UNSUPPORTED` for another format or version */
  static async open(path: string): Promise<AdapterFile> {
    const file = await SafetensorsFile.open(path);
    try {
      const { metadata } = file;
      if (metadata.get("format") !== content.FORMAT) {
        throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: is no adapter file`);
      }
      if (metadata.get("version") !== `${content.FORMAT_VERSION}`) {
        const message = `${path}: is of another version of the format; supported is ${content.FORMAT_VERSION}`;
        throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
      }
      const text = metadata.get("content") ?? "";
      if (metadata.get("sha256") !== contentDigest(text)) {
        throw new ReadMeError("ERR_FILE_CORRUPT", `${path}: is damaged: its description does not match its hash`);
      }
      return new AdapterFile(file, content.parseContent(path, text));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The bytes of a tensor, which are those that were written. */
  async read(name: string): Promise<Uint8Array> {
    const bytes = await this.#file.readBytes(name);
    if (crc32(bytes) !== this.content.checksums[name]) throw this.problem(name, "is damaged");
    return bytes;
  }

  /** What a tensor of the container is said to be. */
  info(name: string): { readonly type: string; readonly shape: readonly number[] } {
    return this.#file.info(name);
  }

  /** Reads everything once. */
  async check(): Promise<void> {
    for (const name of this.#file.names) await this.read(name);
  }

  async floats(name: string): Promise<Float32Array> {
    const { type } = this.info(name);
    const bytes = await this.read(name);
    if (type !== "F32") throw this.problem(name, `is ${type}, not F32`);
    return new Float32Array(bytes.buffer, 0, bytes.byteLength / 4);
  }

  async basePrint(): Promise<BasePrint> {
    return { sha256: this.content.base.sha256, samples: await this.floats(content.SAMPLES) };
  }

  async tables(): Promise<SymbolTables> {
    const { type } = this.info(content.FREQUENCIES);
    const bytes = await this.read(content.FREQUENCIES);
    const tables =
      type === "I16" && bytes.byteLength === 2 * NUM_CONTEXTS * NUM_SYMBOLS
        ? tablesOf(new Uint16Array(bytes.buffer))
        : undefined;
    if (!tables) throw this.problem(content.FREQUENCIES, "holds no table of symbols");
    return tables;
  }

  /** @returns `undefined` where the file has none */
  async scales(sizes: ScaleSizes): Promise<InputScales | undefined> {
    if (!this.#file.names.includes(content.SCALES)) return undefined;
    const { type, shape } = this.info(content.SCALES);
    const expected = scaleShape(sizes);
    if (type !== "U8" || shape.join() !== expected.join()) {
      throw this.problem(content.SCALES, `has shape [${shape.join(", ")}], not [${expected.join(", ")}]`);
    }
    return { codes: await this.read(content.SCALES), sizes };
  }

  /**
   * The neurons of each part of a layer.
   * @param sizes - how many an expert and the shared part have
   */
  async neurons(
    layer: number,
    layers: number,
    denseSize: number,
    sizes: { readonly expert: number; readonly shared: number },
  ): Promise<ReadonlyMap<PartId, Int32Array>> {
    const numExperts = this.content.experts.length;
    const { type, shape } = this.info(content.MASKS);
    const expected = [layers, numExperts + 1, maskBytes(denseSize)];
    if (type !== "U8" || shape.length !== 3 || shape.some((size, axis) => size !== expected[axis])) {
      throw this.problem(content.MASKS, `has shape [${shape.join(", ")}], not [${expected.join(", ")}]`);
    }
    const masks = await this.read(content.MASKS);
    const [, parts, width] = expected as [number, number, number];
    const found = new Map<PartId, Int32Array>();
    for (let part = 0; part < parts; part++) {
      const from = (layer * parts + part) * width;
      const isShared = part === numExperts;
      const size = isShared ? sizes.shared : sizes.expert;
      const neurons = neuronsOf(masks.subarray(from, from + width), denseSize, size);
      if (!neurons) throw this.problem(content.MASKS, `does not name ${size} neurons of layer ${layer}`);
      found.set(isShared ? "shared" : part, neurons);
    }
    return found;
  }

  async documents(): Promise<Documents> {
    const documents = unpackDocuments(await this.read(content.DOCUMENTS));
    if (!documents) throw this.problem(content.DOCUMENTS, "holds no documents");
    return documents;
  }

  problem(tensor: string, what: string): ReadMeError {
    return new ReadMeError("ERR_FILE_CORRUPT", `${this.path}: tensor ${JSON.stringify(tensor)} ${what}`);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
