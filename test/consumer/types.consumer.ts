// Programs that use the packages compile: strictly, with the packages' own types checked, too.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { workspacePackages } from "../../tools/packages/workspace.ts";
import { pages } from "../support/docs/markdown.ts";
import { programsOf } from "../support/docs/programs.ts";
import { FOLDER, node } from "./offline.ts";

const SOURCES = join(FOLDER, "types");
const SETTINGS = {
  node16: { module: "node16", moduleResolution: "node16" },
  nodenext: { module: "nodenext", moduleResolution: "nodenext" },
  bundler: { module: "esnext", moduleResolution: "bundler" },
} as const;

// The host's own types do not pass the compiler where it looks into them.
const needsHost = (text: string): boolean => text.includes("@readme-moe/adapter/huggingface");

beforeAll(async () => {
  await mkdir(SOURCES, { recursive: true });
  for (const page of pages().filter((name) => /(^|\/)README\.md$/.test(name) && !name.startsWith("docs"))) {
    for (const { line, text } of programsOf(page)) {
      const kind = needsHost(text) ? "host" : "own";
      await writeFile(join(SOURCES, `${page.replaceAll(/\W/g, "-")}-${line}.${kind}.mts`), text);
    }
  }
  const imports = workspacePackages()
    .flatMap(({ manifest }) => Object.keys(manifest.exports).map((path) => manifest.name + path.slice(1)))
    .filter((entry) => !/\/(?:huggingface|xenova)$/.test(entry))
    .map((entry, index) => `import * as module${index} from "${entry}";\nconsole.log(module${index});`);
  await writeFile(join(SOURCES, "all-entries.own.mts"), imports.join("\n"));
  await writeFile(
    join(SOURCES, "mistake.own.mts"),
    'import { ReadMeEngine } from "@readme-moe/engine";\n' +
      '// @ts-expect-error there is no such option\nawait ReadMeEngine.open("x", { maxNumSeq: 1 });\n',
  );
});

describe.each(["typescript", "typescript-api"])("%s", (compiler) => {
  describe.each(Object.keys(SETTINGS) as (keyof typeof SETTINGS)[])("moduleResolution %s", (name) => {
    test("all packages and programs, with every declaration checked", async () => {
      expect(await complaints(compiler, name, "own", { skipLibCheck: false })).toBe("");
    });

    test("programs that use the adapter's host", async () => {
      expect(await complaints(compiler, name, "host", { skipLibCheck: true })).toBe("");
    });
  });
});

/** What a compiler says of all programs of one kind. */
async function complaints(
  compiler: string,
  name: keyof typeof SETTINGS,
  kind: "own" | "host",
  options: { readonly skipLibCheck: boolean },
): Promise<string> {
  const strict = { strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true };
  const compilerOptions = { ...SETTINGS[name], ...strict, ...options, target: "es2022", noEmit: true, types: ["node"] };
  const path = join(SOURCES, `tsconfig.${compiler}.${name}.${kind}.json`);
  await writeFile(path, JSON.stringify({ compilerOptions, include: [`*.${kind}.mts`] }));
  const { output } = await node([join(FOLDER, "node_modules", compiler, "bin", "tsc"), "-p", path]);
  return output.trim();
}
