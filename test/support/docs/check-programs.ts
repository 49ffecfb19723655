// Type-checks programs of pages, all in one run of the compiler, against the packages' sources.

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { ROOT } from "./markdown.ts";

const SETTINGS = {
  extends: join(ROOT, "tsconfig.base.json"),
  compilerOptions: {
    noEmit: true,
    composite: false,
    isolatedDeclarations: false,
    declarationMap: false,
    rewriteRelativeImportExtensions: false,
    allowImportingTsExtensions: true,
    customConditions: ["@readme-moe/source"],
    allowJs: true,
    checkJs: true,
    // As in a reader's project, not in ours.
    noUnusedLocals: false,
    noUnusedParameters: false,
    noUncheckedIndexedAccess: false,
    noPropertyAccessFromIndexSignature: false,
    typeRoots: [join(ROOT, "node_modules", "@types")],
    rootDir: ROOT,
  },
};

/** @returns messages about files of `folder`, as `page/line-of-the-block.ts(line,column): error …` */
export async function checkPrograms(folder: string, files: readonly string[]): Promise<readonly string[]> {
  const settings = join(folder, "tsconfig.json");
  await writeFile(settings, JSON.stringify({ ...SETTINGS, files: files.map((file) => relative(folder, file)) }));
  const tsc = join(ROOT, "node_modules", ".bin", "tsc");
  const output = await new Promise<string>((resolve) => {
    execFile(tsc, ["-p", settings, "--pretty", "false"], { cwd: folder, maxBuffer: 1 << 26 }, (_, stdout, stderr) =>
      resolve(stdout + stderr),
    );
  });
  // A message's further lines are indented. What is wrong in the packages is told by their own check.
  const messages = output.split(/\n(?! )/).filter((message) => message.trim() !== "");
  return messages.filter((message) => /^[^(]*line-\d+\.m?[tj]s\(|^error TS/.test(message));
}
