// `npm run test:kernel:sanitizers`: runs the kernel's C code under sanitizers, which end a program with invalid memory
// accesses, undefined behaviour or data races.

import { outcomeOf, run } from "../packages/run.ts";
import { SMALL, withCheckProgram } from "./check-program.ts";
import { inParallel } from "./compile.ts";
import { installPackages } from "./debian.ts";
import { ROOT } from "./places.ts";
import { ARM64_LOOPS, X64_LOOPS } from "./recipe.ts";

const PACKAGES = ["clang-19", "libclang-rt-19-dev"];
const COMPILERS = ["clang-19", "clang"];

interface Sanitizer {
  readonly name: string;
  readonly flags: readonly string[];
  /** Checked code, first seed, and numbers of models or programs and of threads. */
  readonly runs: readonly (readonly [what: string, seed: number, numModels: number, numThreads?: number])[];
}

const SANITIZERS: readonly Sanitizer[] = [
  {
    name: "addresses and undefined behaviour",
    flags: ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"],
    runs: [
      ["bits", 1, 60, 4],
      ["requests", 2, 40],
      ["files", 3, 16],
      ["team", 5, 200, 6],
    ],
  },
  {
    name: "threads",
    flags: ["-fsanitize=thread"],
    runs: [
      ["bits", 4, 20, 4],
      ["team", 6, 200, 6],
    ],
  },
];

/** Finds a Clang that can link its sanitizers. */
async function findCompiler(): Promise<string | undefined> {
  for (const compiler of COMPILERS) {
    const args = ["-fsanitize=address", "-x", "c", "-o", "/dev/null", "-"];
    const outcome = await outcomeOf(
      "sh",
      ["-c", `echo 'int main(void) { return 0; }' | ${compiler} ${args.join(" ")}`],
      {
        cwd: ROOT,
      },
    );
    if (outcome.code === 0) return compiler;
  }
  return undefined;
}

async function check(compiler: string, { name, flags, runs }: Sanitizer): Promise<void> {
  const loops = process.arch === "arm64" ? ARM64_LOOPS : X64_LOOPS;
  const compile = (args: readonly string[], cwd: string): Promise<string> => run(compiler, args, { cwd });
  await withCheckProgram({ compile, flags: ["-O1", "-g", ...SMALL, ...flags], loops }, async (path) => {
    await inParallel(runs.map((args) => () => run(path, args.map(String), { cwd: ROOT })));
  });
  for (const [what, seed, numModels] of runs) {
    console.log(`${name}: nothing found in ${what}, ${numModels} from seed ${seed}`);
  }
}

try {
  const compiler = (await findCompiler()) ?? ((await installPackages(PACKAGES)) ? await findCompiler() : undefined);
  if (compiler === undefined)
    console.log(`The kernel was not tested with sanitizers: the test needs ${PACKAGES.join(" and ")}`);
  else for (const sanitizer of SANITIZERS) await check(compiler, sanitizer);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
