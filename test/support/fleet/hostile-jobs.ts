// Jobs that no front writes: valid ones with seeded damage, in every field, that aim at files, modules, memory and keys.

import { SAMPLING_PARAMETERS, seededRandom } from "@readme-moe/core";

/** Targets that a hostile job could want to be read or run. */
export interface Bait {
  /** File whose text must appear nowhere. */
  readonly file: string;
  /** Module that must not be loaded. */
  readonly module: string;
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

const FIELDS = ["version", "id", "prompt", "expertTokens", "expert", "priority", "client", "prediction", "constraint"];
const PARAMS = Object.keys(SAMPLING_PARAMETERS);
const KINDS = [
  "json",
  "grammar",
  "regex",
  "choice",
  "tagged",
  "reasoning",
  "module",
  "file",
  "constructor",
  "__proto__",
];
const CONSTRAINT_FIELDS = ["schema", "ebnf", "pattern", "texts", "answers", "path", "module", "root", "bound"];

/** Makes hostile data of jobs, each with the id that it gets in its queue. */
export function hostileJobs(
  count: number,
  seed: number,
  bait: Bait,
): readonly { readonly id: string; readonly data: Json }[] {
  const random = seededRandom(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item;
  const values = (): Json => {
    const all: readonly Json[] = [
      null,
      true,
      -1,
      0,
      0.5,
      1e9,
      1e308,
      -1e308,
      2 ** 53,
      "",
      "\u0000",
      "..",
      "{x}:log",
      bait.file,
      bait.module,
      `file://${bait.module}`,
      "node:child_process",
      "/etc/passwd",
      "a".repeat(10_000),
      [],
      {},
      [[[[]]]],
      [1e9],
      [-1],
      [0.5],
      [bait.file],
      { toString: 1 },
      { $ref: `file://${bait.file}` },
      { path: bait.module },
      { ["__proto__"]: { maxTokens: 1 } },
      { length: 1e9 },
      Array.from({ length: 2000 }, () => 1),
    ];
    return pick(all);
  };
  const constraint = (): Json => ({
    kind: pick(KINDS),
    ...Object.fromEntries(
      Array.from({ length: 1 + Math.floor(random() * 3) }, () => [pick(CONSTRAINT_FIELDS), values()]),
    ),
  });
  const damaged = (id: string): Json => {
    const params: Record<string, Json> = { maxTokens: 2, n: 1, seed: 1 };
    const job: Record<string, Json> = { version: 1, id, prompt: [1, 2, 3], priority: 0 };
    for (let left = 1 + Math.floor(random() * 3); left > 0; left--) {
      const kind = random();
      if (kind < 0.4) job[pick(FIELDS)] = values();
      else if (kind < 0.6) params[pick(PARAMS)] = values();
      else if (kind < 0.7) job["constraint"] = constraint();
      else if (kind < 0.8) job[pick(["module", "path", "model", "processLogits", "signal", "resume"])] = values();
      else if (kind < 0.9) delete job[pick(FIELDS)];
      else delete params[pick(PARAMS)];
    }
    return { ...job, params };
  };
  return Array.from({ length: count }, (_, index) => {
    const id = `hostile-${index}`;
    return { id, data: random() < 0.1 ? values() : damaged(id) };
  });
}
