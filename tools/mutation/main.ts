// Runs Stryker over the deciding code: npm run test:mutation [-- --share 0.2 --seed 1 target ...]
// `--share` draws that part of each target's functions. All targets whole take hours. `--survivors` tests the places
// again where mutants survived the last run.

import { mkdirSync, readFileSync, statSync } from "node:fs";
import { relative } from "node:path";
import { parseArgs } from "node:util";
import { Stryker } from "@stryker-mutator/core";
import { seededRandom } from "../../packages/core/src/random.ts";
import { sourceFiles } from "../house/source-counts.ts";
import { drawDeclarations } from "./declarations.ts";
import { survivorsOf } from "./survivors.ts";
import { MUTATION_TARGETS, type MutationTarget } from "./targets.ts";

const { values, positionals } = parseArgs({
  options: {
    share: { type: "string", default: "1" },
    seed: { type: "string", default: "1" },
    survivors: { type: "boolean", default: false },
    concurrency: { type: "string", default: "2" },
    "tests-timeout-minutes": { type: "string", default: "20" },
  },
  allowPositionals: true,
});
const OUT = "mutation-results";

function filesOf({ sources, except = [] }: MutationTarget): readonly string[] {
  const files = sources.flatMap((source) => {
    const path = `packages/${source}`;
    return statSync(path).isDirectory() ? sourceFiles(path) : [path];
  });
  return files.filter((path) => !except.some((prefix) => path.startsWith(`packages/${prefix}`)));
}

/** Lists the files or ranges to mutate. */
function placesOf(target: MutationTarget): readonly string[] {
  if (values.survivors) return survivorsOf(readFileSync(`${OUT}/${target.name}.json`, "utf8"));
  const share = Number(values.share);
  const random = seededRandom(Number(values.seed));
  const files = filesOf(target);
  return share < 1 ? files.flatMap((path) => drawDeclarations(path, share, random)) : files;
}

async function mutate(target: MutationTarget): Promise<void> {
  process.env["README_MOE_MUTATION_TESTS"] = target.tests.join("\n");
  const results = await new Stryker({
    mutate: [...placesOf(target)],
    testRunner: "vitest",
    plugins: ["@stryker-mutator/vitest-runner"],
    vitest: { configFile: "vitest.mutation.config.ts", related: false },
    coverageAnalysis: "perTest",
    // A mutant of code that runs once, when its module is loaded, would need all modules loaded anew.
    ignoreStatic: true,
    concurrency: Number(values.concurrency),
    disableTypeChecks: false,
    // TypeScript 7 has no API by which Stryker could rewrite paths; vitest does not read this file.
    tsconfigFile: "no-tsconfig.json",
    packageManager: "pnpm",
    reporters: ["json", "progress-append-only"],
    jsonReporter: { fileName: `${OUT}/${target.name}.json` },
    ignorePatterns: ["/models/*", "!/models/pocket", "/docs", `/${OUT}`],
    tempDirName: ".stryker",
    timeoutMS: 10_000,
    dryRunTimeoutMinutes: Number(values["tests-timeout-minutes"]),
  }).runMutationTest();
  const count = (...statuses: readonly string[]): number =>
    results.filter(({ status }) => statuses.includes(status)).length;
  const killed = count("Killed", "Timeout");
  const survived = count("Survived", "NoCoverage");
  console.log(
    `${target.name}: ${killed} of ${killed + survived} mutants noticed (${((100 * killed) / (killed + survived)).toFixed(1)} %), ` +
      `${count("NoCoverage")} in code that no test ran`,
  );
  for (const { status, fileName, location, mutatorName, replacement } of results) {
    if (status !== "Survived" && status !== "NoCoverage") continue;
    const line = readFileSync(fileName, "utf8").split("\n")[location.start.line - 1]?.trim();
    const place = `${relative(process.cwd(), fileName)}:${location.start.line}`;
    console.log(`  ${place} ${status} ${mutatorName}: ${line} -> ${replacement?.split("\n")[0]}`);
  }
}

mkdirSync(OUT, { recursive: true });
const chosen =
  positionals.length === 0 ? MUTATION_TARGETS : MUTATION_TARGETS.filter(({ name }) => positionals.includes(name));
for (const target of chosen) await mutate(target);
