// `npm run docs:site`: builds the documentation as a site, or serves it while its pages are written.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, watch } from "node:fs";
import { join, posix, sep } from "node:path";
import { parseArgs } from "node:util";
import { installLocked } from "../../tools/packages/install-locked.ts";
import { deadLinks } from "./dead-links.ts";
import { ROOT, SITE, siteSources, writePage, writePages } from "./sources.ts";

const USAGE = `Usage: npm run docs:site [-- options]

  --dev                 serve the pages and follow their changes, instead of writing docs/site/dist
  --base <path>         path that the site is served below (default /)
  --repository <url>    address of the repository's files, such as https://host/owner/name/blob/main;
                        without it, links to files that are no pages are shown by name
`;

const { values } = parseArgs({
  options: {
    dev: { type: "boolean", default: false },
    base: { type: "string", default: "/" },
    repository: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) console.log(USAGE);
else await makeSite();

async function makeSite(): Promise<void> {
  if (!/^\/(?:.*\/)?$/.test(values.base)) {
    throw new RangeError(`Expected --base to begin and end with a slash, got ${values.base}`);
  }
  await installLocked(SITE, { say: (text) => console.error(text), what: "VitePress and Mermaid (0.3 GB)" });
  writePages();
  if (values.dev) followChanges();
  const code = await vitepress(values.dev ? "dev" : "build");
  if (code !== 0 || values.dev) process.exit(code);
  const dead = deadLinks(...builtSite(), values.base);
  for (const link of dead) console.error(`leads nowhere: ${link}`);
  if (dead.length > 0) process.exit(1);
  console.log("The site is in docs/site/dist");
}

async function vitepress(command: "build" | "dev"): Promise<number> {
  const program = join(SITE, "node_modules", "vitepress", "bin", "vitepress.js");
  const env = { ...process.env, ...(values.repository && { README_MOE_SITE_REPOSITORY: values.repository }) };
  const child = spawn(process.execPath, [program, command, SITE, "--base", values.base], { stdio: "inherit", env });
  const [code] = (await once(child, "exit")) as [number | null];
  return code ?? 1;
}

/** Writes the pages of files that change. */
function followChanges(): void {
  const sources = new Set(siteSources());
  for (const folder of new Set([...sources].map((source) => posix.dirname(source)))) {
    watch(join(ROOT, folder), (_, name) => {
      const source = posix.join(folder, name ?? "");
      if (!sources.has(source)) return;
      try {
        writePage(source);
      } catch (error) {
        // A file that an editor is just writing; its next change follows.
        console.error(error instanceof Error ? error.message : error);
      }
    });
  }
}

/** Reads the HTML of all built pages, and the paths of all built files. */
function builtSite(): [pages: ReadonlyMap<string, string>, files: ReadonlySet<string>] {
  const dist = join(SITE, "dist");
  const files = readdirSync(dist, { recursive: true, encoding: "utf8" }).map((path) => path.split(sep).join("/"));
  const pages = files.filter((path) => path.endsWith(".html"));
  return [new Map(pages.map((path) => [path, readFileSync(join(dist, path), "utf8")])), new Set(files)];
}
