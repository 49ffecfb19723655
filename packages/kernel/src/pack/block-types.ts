// Panels of weights, and the types of weights in blocks. `EACH_BLOCK_TYPE` of `native/blocks.h` has the same types, in
// this order.

/** Outputs are stored in panels of 64, inputs in groups of 32, both padded with zeros. */
export const PANEL = 64;
export const GROUP = 32;

export function wholePanels(numOut: number): number {
  return Math.ceil(numOut / PANEL);
}

export function wholeGroups(numIn: number): number {
  return Math.ceil(numIn / GROUP);
}

/** Sizes of a type. */
interface BlockSizes {
  /** Bits of a weight, without its scales. */
  readonly bits: number;
  /** Number of inputs that share a scale. */
  readonly block: 16 | 32;
  /** Bytes of the scales and minimums of 32 inputs of an output. */
  readonly scaleBytes: number;
  /** Bytes of the factors that the scales of 256 inputs share. */
  readonly factorBytes: number;
  /** Values and bytes of a block in a file; 0 for types that no file has. */
  readonly values: number;
  readonly bytes: number;
}

const type = (bits: number, block: 16 | 32, scaleBytes: number, ofFile: Partial<BlockSizes> = {}): BlockSizes => ({
  bits,
  block,
  scaleBytes,
  factorBytes: 0,
  values: 0,
  bytes: 0,
  ...ofFile,
});
const small = (bits: number, scaleBytes: number, bytes: number): BlockSizes =>
  type(bits, 32, scaleBytes, { values: 32, bytes });
const large = (bits: number, block: 16 | 32, [scaleBytes, factorBytes, bytes]: readonly [number, number, number]) =>
  type(bits, block, scaleBytes, { factorBytes, values: 256, bytes });

export type BlockTypeName =
  | `INT8_${16 | 32}`
  | `INT4_${16 | 32}`
  | `INT4_MINIMUM_${16 | 32}`
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ4_NL"
  | "IQ4_XS"
  | "MXFP4"
  | "TQ2_0";

export const BLOCK_TYPES: Readonly<Record<BlockTypeName, BlockSizes>> = {
  INT8_16: type(8, 16, 8),
  INT8_32: type(8, 32, 4),
  INT4_16: type(4, 16, 8),
  INT4_32: type(4, 32, 4),
  INT4_MINIMUM_16: type(4, 16, 16),
  INT4_MINIMUM_32: type(4, 32, 8),
  Q4_0: small(4, 2, 18),
  Q4_1: small(4, 4, 20),
  Q5_0: small(5, 2, 22),
  Q5_1: small(5, 4, 24),
  Q8_0: small(8, 2, 34),
  Q2_K: large(2, 16, [2, 4, 84]),
  Q3_K: large(3, 16, [2, 2, 110]),
  Q4_K: large(4, 32, [2, 4, 144]),
  Q5_K: large(5, 32, [2, 4, 176]),
  Q6_K: large(6, 16, [2, 2, 210]),
  IQ4_NL: small(4, 2, 18),
  IQ4_XS: large(4, 32, [1, 2, 136]),
  MXFP4: small(4, 1, 17),
  TQ2_0: large(2, 32, [0, 2, 66]),
};

/** Number of the first type's format; the others follow. */
const FIRST_FORMAT = 16;
/** Groups whose scales share factors. */
const SPAN_GROUPS = 8;
const NAMES = Object.keys(BLOCK_TYPES) as readonly BlockTypeName[];

export function isBlockType(name: string): name is BlockTypeName {
  return Object.hasOwn(BLOCK_TYPES, name);
}

/** Checks that the kernel packs rows of `numIn` weights of a file's type. */
export function isPackable(name: string, numIn: number): name is BlockTypeName {
  if (!isBlockType(name)) return false;
  const { values } = BLOCK_TYPES[name];
  return values > 0 && numIn > 0 && numIn % values === 0;
}

/** Returns the number that the packed file has for a type. */
export function formatNumber(name: BlockTypeName): number {
  return FIRST_FORMAT + NAMES.indexOf(name);
}

/** Computes the bytes of packed weights. */
export function blockBytes(name: BlockTypeName, numOut: number, numIn: number): number {
  const { bits, scaleBytes, factorBytes } = BLOCK_TYPES[name];
  const groupBytes = PANEL * ((GROUP * bits) / 8 + scaleBytes);
  const panelBytes =
    wholeGroups(numIn) * groupBytes + Math.floor(wholeGroups(numIn) / SPAN_GROUPS) * PANEL * factorBytes;
  return wholePanels(numOut) * panelBytes;
}
