// Writes the engine's worker and the grammars' thread as one file each: a worker that imports its 270 modules one by one
// starts five times as slowly. Runs after each `tsc -b`, from whose output it reads.

import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const PACKAGES = resolve(dirname(fileURLToPath(import.meta.url)), "../../packages");
const OUR_FILE = /[\\/]packages[\\/][^\\/]+[\\/]dist[\\/].*\.js$/;
const OTHERS = /^(?!@readme-moe\/|node:|[./])/;

/** Names as seen by the packages that modules come from, which the bundle is not in. */
const NAMES = `import { createRequire as requireFrom } from "node:module";
const urlOf = (name) => import.meta.resolve(name);`;

/** Keeps what a module reads from beside itself, and other authors' packages, where its own package has them. */
const perPackage = {
  name: "per-package",
  setup({ onLoad, onResolve }) {
    onLoad({ filter: OUR_FILE }, ({ path }) => {
      const text = readFileSync(path, "utf8");
      const own = nameOf(path);
      return { contents: own === "@readme-moe/engine" ? text : text.replaceAll("import.meta.url", `urlOf("${own}")`) };
    });
    onResolve({ filter: /.*/ }, ({ path, importer }) =>
      OTHERS.test(path) ? { path, namespace: "other", pluginData: nameOf(importer) } : undefined,
    );
    onLoad({ filter: /.*/, namespace: "other" }, ({ path, pluginData }) => ({
      contents: `module.exports = requireFrom(urlOf(${JSON.stringify(pluginData)}))(${JSON.stringify(path)});`,
    }));
  },
};

/** Returns the name of the package that a built file belongs to. */
function nameOf(path) {
  const folder = path.slice(PACKAGES.length + 1).split(/[\\/]/)[0];
  return JSON.parse(readFileSync(join(PACKAGES, folder, "package.json"), "utf8")).name;
}

/** Writes the modules of a worker beside its package's entry. */
function bundle(entry, outfile, more) {
  const places = { entryPoints: [join(PACKAGES, entry)], outfile: join(PACKAGES, outfile) };
  return build({
    ...places,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    logLevel: "warning",
    ...more,
  });
}

await bundle("engine/dist/worker/worker-main.js", "engine/dist/worker-main.js", {
  banner: { js: NAMES },
  plugins: [perPackage],
});
await bundle("grammar/dist/matching/matcher-main.js", "grammar/dist/matcher-main.js", {
  external: ["@mlc-ai/web-xgrammar"],
});
