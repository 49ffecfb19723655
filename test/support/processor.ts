import { existsSync, readFileSync } from "node:fs";

/**
 * Whether the runtime's products of 4-bit blocks add up a row in one order, however many rows there are. Without AVX-512 its
 * kernels for one row and for two differ in that; elsewhere than on Linux for x64 nothing is known, and equal bits are expected.
 */
export const ADDS_FOUR_BITS_IN_ONE_ORDER =
  process.arch !== "x64" || !existsSync("/proc/cpuinfo") || /\bavx512f\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
