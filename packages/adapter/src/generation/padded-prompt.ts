import type { HostTensor } from "../host/host.ts";

/** One row of a batch that the host's tokenizer padded on the left. */
export interface PaddedPrompt {
  /** As the host gave it. */
  readonly padded: readonly bigint[];
  /** Without what the mask leaves out. */
  readonly tokenIds: Int32Array;
}

/** @param ids - `[rows, tokens]`; @param mask - like `ids`, 0 where there is padding; `undefined` for none */
export function paddedPrompts(ids: HostTensor, mask: HostTensor | undefined): readonly PaddedPrompt[] {
  const [numRows = 0, numTokens = 0] = ids.dims;
  const [values, kept] = [ids.data as BigInt64Array, mask?.data];
  return Array.from({ length: numRows }, (_, row) => {
    const places = Array.from({ length: numTokens }, (_token, column) => row * numTokens + column);
    const own = kept ? places.filter((place) => Number(kept[place]) !== 0) : places;
    return {
      padded: places.map((place) => values[place] as bigint),
      tokenIds: Int32Array.from(own, (place) => Number(values[place])),
    };
  });
}
