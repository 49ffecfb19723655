/** One number where all layers have the same, as configurations and reports write it. */
export function oneOrMany(sizes: readonly number[]): number | readonly number[] {
  return sizes.every((size) => size === sizes[0]) ? (sizes[0] as number) : sizes;
}
