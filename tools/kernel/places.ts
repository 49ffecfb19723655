// Folders of the kernel's build.

import { join } from "node:path";
import { ROOT } from "../packages/workspace.ts";

export { ROOT };
export const NATIVE: string = join(ROOT, "packages", "kernel", "native");
export const PREBUILT: string = join(ROOT, "packages", "kernel", "prebuilt");
/** Folder of the C program that checks the kernel. */
export const CHECK: string = join(NATIVE, "check");
/** Cache of the compiler and of programs for other machines; removed with `node_modules`. */
export const CACHE: string = join(ROOT, "node_modules", ".cache", "kernel");
