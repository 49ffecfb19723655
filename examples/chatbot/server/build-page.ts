import { join } from "node:path";
import { build } from "vite";

const PAGE = join(import.meta.dirname, "..", "page");

/** Builds the page into a folder, in less than a second. */
export async function buildPage(outDir: string): Promise<void> {
  await build({
    root: PAGE,
    configFile: false,
    logLevel: "warn",
    build: { outDir, emptyOutDir: true, target: "es2023", modulePreload: { polyfill: false } },
  });
}
