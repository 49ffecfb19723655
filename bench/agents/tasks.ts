// Small tasks for a coding agent, each with a check that does not ask the agent.

import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

export interface AgentTask {
  readonly name: string;
  /** Contents of the folder that the agent works in, by file. */
  readonly files: Readonly<Record<string, string>>;
  readonly prompt: string;
  /** Tells whether the task was solved. @param said - the agent's output */
  readonly isSolved: (folder: string, said: string) => Promise<boolean>;
}

const CART = `export function total(items) {
  let sum = 0;
  for (let i = 1; i < items.length; i++) sum += items[i].price * items[i].count;
  return sum;
}
`;

const CART_TEST = `import assert from "node:assert/strict";
import { test } from "node:test";
import { total } from "./cart.mjs";

test("the total of two items", () => {
  assert.equal(total([{ price: 2, count: 3 }, { price: 5, count: 1 }]), 11);
});
`;

const STATS = `export function mean(numbers) {
  return numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
}
`;

const MEDIAN_CHECK = `
import { median } from "./stats.mjs";
const given = [3, 1, 2];
const isRight = median(given) === 2 && median([4, 1, 3, 2]) === 2.5 && median([7]) === 7;
process.exit(isRight ? 0 : 1);
`;

const LIMITER = `const WINDOW_MS = 60_000;

export function makeLimiter(most) {
  const times = new Map();
  return (client, now) => {
    const recent = (times.get(client) ?? []).filter((time) => now - time < WINDOW_MS);
    const isAllowed = recent.length < most;
    if (isAllowed) recent.push(now);
    times.set(client, recent);
    return isAllowed;
  };
}
`;

/** Returns the tasks in the order in which they run. */
export const TASKS: readonly AgentTask[] = [
  {
    name: "mend a bug in one file",
    files: { "cart.mjs": CART, "cart.test.mjs": CART_TEST },
    prompt: "The test in cart.test.mjs fails because of a bug in cart.mjs. Fix cart.mjs.",
    isSolved: (folder) => exitsWell(folder, ["--test", "cart.test.mjs"]),
  },
  {
    name: "add a function with a test",
    files: { "stats.mjs": STATS },
    prompt:
      "Add an exported function median(numbers) to stats.mjs, and write a test of it in stats.test.mjs with node:test.",
    async isSolved(folder) {
      await writeFile(join(folder, "check-median.mjs"), MEDIAN_CHECK);
      return (await exitsWell(folder, ["check-median.mjs"])) && (await exitsWell(folder, ["--test", "stats.test.mjs"]));
    },
  },
  {
    name: "rename a function",
    files: {
      "price.mjs": "export function calc(net) {\n  return Math.round(net * 119) / 100;\n}\n",
      "main.mjs": 'import { calc } from "./price.mjs";\n\nconsole.log(calc(10), calc(20));\n',
    },
    prompt: "Rename the function calc to grossPrice in price.mjs and main.mjs.",
    async isSolved(folder) {
      const texts = await Promise.all(["price.mjs", "main.mjs"].map((name) => readFile(join(folder, name), "utf8")));
      const isRenamed = texts.every((text) => !/\bcalc\b/.test(text) && text.includes("grossPrice"));
      return isRenamed && (await exitsWell(folder, ["main.mjs"]));
    },
  },
  {
    name: "explain a file",
    files: { "limiter.mjs": LIMITER },
    prompt: "Read limiter.mjs and explain in two sentences what makeLimiter does. Do not change any file.",
    isSolved: async (folder, said) =>
      /minute|60|window/i.test(said) &&
      /client|request|limit/i.test(said) &&
      (await readFile(join(folder, "limiter.mjs"), "utf8")) === LIMITER,
  },
  {
    name: "answer from two files",
    files: {
      "server.mjs":
        'import { ports } from "./ports.mjs";\n\nexport const port = ports[process.env.STAGE ?? "local"];\n',
      "ports.mjs": "export const ports = { local: 3100, test: 3200, live: 8443 };\n",
    },
    prompt: "Read server.mjs and ports.mjs. Which port does the server use when STAGE is live? Answer with the number.",
    isSolved: async (_, said) => said.includes("8443"),
  },
];

/** Makes a task's folder. */
export async function writeTask(folder: string, { files }: AgentTask): Promise<void> {
  await mkdir(folder, { recursive: true });
  await Promise.all(Object.entries(files).map(([name, text]) => writeFile(join(folder, name), text)));
}

async function exitsWell(folder: string, args: readonly string[]): Promise<boolean> {
  try {
    await promisify(execFile)(process.execPath, args, { cwd: folder, timeout: 30_000 });
    return true;
  } catch {
    return false;
  }
}
