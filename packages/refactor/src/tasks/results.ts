// Typed results of tasks, as artefacts and back.

import { createHash } from "node:crypto";
import type { Moments } from "../experts/moments.ts";
import type { LayerExperts, Part } from "../experts/select.ts";

type Arrays = readonly (readonly [name: string, values: Values])[];

/** Streams of a shard between the beginning of a layer and its end. Arrays that are not needed are empty. */
export interface ShardStates {
  /** Dense model's stream behind the layer, `[tokens, hiddenSize]`. */
  readonly dense: Float32Array;
  /** Stream in front of the layer that its experts are fitted to. */
  readonly fitted: Float32Array;
  /** Target of the experts, see `Goal`. */
  readonly goalRows: Float32Array;
  readonly goalWeights: Float32Array;
  /** Stream of the baseline without routing, in front of the layer. */
  readonly static: Float32Array;
  /** Costs of the layers before, `[tokens, experts]`. */
  readonly costs: Float32Array;
}

const STATES = ["dense", "fitted", "goalRows", "goalWeights", "static", "costs"] as const;

export function statesArtefact(states: ShardStates): Artefact {
  return new Map(STATES.map((name) => [name, states[name]]));
}

export function readStates(artefact: Artefact): ShardStates {
  const arrays = STATES.map((name) => [name, arrayOf(artefact, name, "F32")] as const);
  return Object.fromEntries(arrays) as unknown as ShardStates;
}

export function momentArrays(prefix: string, moments: Moments): Arrays {
  return [
    [`${prefix}.gram`, moments.gram],
    [`${prefix}.cross`, moments.cross],
    [`${prefix}.neuronSums`, moments.neuronSums],
    [`${prefix}.targetSums`, moments.targetSums],
    [`${prefix}.scalars`, Float64Array.of(moments.count, moments.targetSquares)],
  ];
}

/** Reads moments; nothing if there are none with this prefix. */
export function readMoments(artefact: Artefact, prefix: string): Moments | undefined {
  if (!artefact.has(`${prefix}.gram`)) return undefined;
  const [count = NaN, targetSquares = NaN] = arrayOf(artefact, `${prefix}.scalars`, "F64");
  return {
    count,
    targetSquares,
    gram: arrayOf(artefact, `${prefix}.gram`, "F32"),
    cross: arrayOf(artefact, `${prefix}.cross`, "F32"),
    neuronSums: arrayOf(artefact, `${prefix}.neuronSums`, "F64"),
    targetSums: arrayOf(artefact, `${prefix}.targetSums`, "F64"),
  };
}

export function partArrays(prefix: string, { neurons, down, bias, squares }: Part): Arrays {
  return [
    [`${prefix}.neurons`, neurons],
    [`${prefix}.down`, down],
    [`${prefix}.bias`, bias],
    ...(squares ? [[`${prefix}.squares`, squares] as const] : []),
  ];
}

/** Reads a part; nothing if there is none with this prefix. */
export function readPart(artefact: Artefact, prefix: string): Part | undefined {
  if (!artefact.has(`${prefix}.neurons`)) return undefined;
  return {
    neurons: arrayOf(artefact, `${prefix}.neurons`, "I32"),
    down: arrayOf(artefact, `${prefix}.down`, "F32"),
    bias: arrayOf(artefact, `${prefix}.bias`, "F32"),
    squares: artefact.has(`${prefix}.squares`) ? arrayOf(artefact, `${prefix}.squares`, "F32") : undefined,
  };
}

export function expertArrays(family: string, { shared, experts }: LayerExperts): Arrays {
  return [
    ...(shared ? partArrays(`${family}.shared`, shared) : []),
    ...experts.flatMap((part, index) => partArrays(`${family}.${index}`, part)),
  ];
}

/** Reads a family of experts; without any expert if there is none. */
export function readExperts(artefact: Artefact, family: string): LayerExperts {
  const experts: Part[] = [];
  for (let part = readPart(artefact, `${family}.0`); part; part = readPart(artefact, `${family}.${experts.length}`)) {
    experts.push(part);
  }
  return { shared: readPart(artefact, `${family}.shared`), experts };
}

/** A layer: experts and figures by the name of their family. */
export interface FittedFamilies {
  readonly families: Readonly<Record<string, LayerExperts>>;
  /** Distance of each expert from the target on its own text; of some families only. */
  readonly figures: Readonly<Record<string, readonly number[]>>;
}

/** Families of a layer, from the result to what it is compared with. */
const FAMILIES = ["ours", "static", "paper", "random"] as const;

export function layerArtefact({ families, figures }: FittedFamilies): Artefact {
  return new Map([
    ...Object.entries(families).flatMap(([family, experts]) => expertArrays(family, experts)),
    ...Object.entries(figures).map(([family, values]) => [`${family}.figures`, Float64Array.from(values)] as const),
  ]);
}

export function readLayer(artefact: Artefact): FittedFamilies {
  const present = FAMILIES.filter((family) => artefact.has(`${family}.0.neurons`));
  const figured = FAMILIES.filter((family) => artefact.has(`${family}.figures`));
  return {
    families: Object.fromEntries(present.map((family) => [family, readExperts(artefact, family)])),
    figures: Object.fromEntries(
      figured.map((family) => [family, Array.from(arrayOf(artefact, `${family}.figures`, "F64"))]),
    ),
  };
}

// Results of tasks: arrays by name. As bytes they begin with a checksum of the rest, so that damage is noticed.

export type Values = Float32Array | Float64Array | Int32Array | Uint8Array;

/** Result of a task, or a part of one. */
export type Artefact = ReadonlyMap<string, Values>;

/** Types of arrays by their names in safetensors files. */
export const TYPES = { F32: Float32Array, F64: Float64Array, I32: Int32Array, U8: Uint8Array } as const;

interface ArrayTypes {
  readonly F32: Float32Array;
  readonly F64: Float64Array;
  readonly I32: Int32Array;
  readonly U8: Uint8Array;
}

export type TypeName = keyof ArrayTypes;

/** Arrays begin at multiples of this, so that they can be read in place. */
const ALIGNMENT = 8;
const CHECKSUM_BYTES = 32;
/** Start of the header, behind the checksum and the header's length. */
const HEADER_START = CHECKSUM_BYTES + 8;

type HeaderEntry = readonly [name: string, type: TypeName, length: number];

/** Encodes an artefact: checksum, length of the header, header, arrays in the byte order of the machine. */
export function encodeArtefact(artefact: Artefact): Uint8Array {
  const entries = Array.from(artefact, ([name, values]): HeaderEntry => [name, typeOf(values), values.length]);
  const header = new TextEncoder().encode(JSON.stringify(entries));
  const places = placesOf(entries, aligned(HEADER_START + header.byteLength));
  const bytes = new Uint8Array(places.end);
  new DataView(bytes.buffer).setBigUint64(CHECKSUM_BYTES, BigInt(header.byteLength), true);
  bytes.set(header, HEADER_START);
  for (const [name, { buffer, byteOffset, byteLength }] of artefact) {
    bytes.set(new Uint8Array(buffer, byteOffset, byteLength), places.starts.get(name));
  }
  bytes.set(checksumOf(bytes));
  return bytes;
}

/** Decodes an artefact. Arrays are views of `bytes`. @returns nothing when it is damaged */
export function decodeArtefact(bytes: Uint8Array): Artefact | undefined {
  if (bytes.byteLength < HEADER_START || !checksumOf(bytes).equals(bytes.subarray(0, CHECKSUM_BYTES))) return undefined;
  const whole = bytes.byteOffset % ALIGNMENT === 0 ? bytes : bytes.slice();
  const length = Number(new DataView(whole.buffer, whole.byteOffset).getBigUint64(CHECKSUM_BYTES, true));
  if (length > whole.byteLength - HEADER_START) return undefined;
  const entries = parseHeader(new TextDecoder().decode(whole.subarray(HEADER_START, HEADER_START + length)));
  if (!entries) return undefined;
  const { starts, end } = placesOf(entries, aligned(HEADER_START + length));
  if (end !== whole.byteLength) return undefined;
  return new Map(
    entries.map(([name, type, count]) => {
      const start = whole.byteOffset + (starts.get(name) ?? 0);
      return [name, new TYPES[type](whole.buffer as ArrayBuffer, start, count)];
    }),
  );
}

/** Finds an array. @throws {TypeError} when there is none with this name and type */
export function arrayOf<Type extends TypeName>(artefact: Artefact, name: string, type: Type): ArrayTypes[Type] {
  const values = artefact.get(name);
  if (values instanceof TYPES[type]) return values as ArrayTypes[Type];
  throw new TypeError(`Expected an artefact to have \`${name}\` as ${type}, got ${values ? typeOf(values) : "none"}`);
}

function checksumOf(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes.subarray(CHECKSUM_BYTES)).digest();
}

export function typeOf(values: Values): TypeName {
  if (values instanceof Float32Array) return "F32";
  if (values instanceof Float64Array) return "F64";
  return values instanceof Int32Array ? "I32" : "U8";
}

function aligned(at: number): number {
  return Math.ceil(at / ALIGNMENT) * ALIGNMENT;
}

function placesOf(
  entries: readonly HeaderEntry[],
  start: number,
): { readonly starts: ReadonlyMap<string, number>; readonly end: number } {
  const starts = new Map<string, number>();
  let end = start;
  for (const [name, type, length] of entries) {
    starts.set(name, end);
    end = aligned(end + length * TYPES[type].BYTES_PER_ELEMENT);
  }
  return { starts, end };
}

function parseHeader(text: string): readonly HeaderEntry[] | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  return Array.isArray(parsed) && parsed.every(isEntry) ? parsed : undefined;
}

function isEntry(value: unknown): value is HeaderEntry {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [name, type, length] = value as readonly unknown[];
  const isKnown = typeof type === "string" && Object.hasOwn(TYPES, type);
  return typeof name === "string" && isKnown && Number.isSafeInteger(length) && (length as number) >= 0;
}
