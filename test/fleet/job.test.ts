import {
  resolveSamplingParams,
  samplingParametersWith,
  type SamplingParameter,
  type SamplingParams,
} from "@readme-moe/core";
import { expect, test } from "vitest";
import { readJob, writeJob, type FleetJob } from "../../packages/fleet/src/job.ts";
import { bullPriority } from "../../packages/fleet/src/job-queues.ts";
import * as fc from "../support/fast-check.ts";
import { hostileJobs } from "../support/fleet/hostile-jobs.ts";

const limits = { vocabSize: 100, eosTokenIds: [0] };
const SMALLEST = { id: "r", promptIds: [1], params: { seed: 1 } };

/** Draws a value of any parameter. */
function valueOf({ kind, min = 0, above = 0, max = 50, maxItems = 0 }: SamplingParameter): fc.Arbitrary<unknown> {
  const ids = fc.nat(99);
  // JSON has no -0.
  const number = fc.double({ min: Math.max(min, above + 1e-6), max, noNaN: true }).map((value) => value + 0);
  return {
    number,
    integer: fc.integer({ min, max }),
    flag: fc.boolean(),
    texts: fc.oneof(fc.constant("end"), fc.array(fc.stringMatching(/^[a-z]{1,3}$/), { maxLength: maxItems })),
    tokenIds: fc.uniqueArray(ids),
    biases: fc.oneof(
      fc.uniqueArray(fc.tuple(ids, number), { selector: ([id]) => id }).map((entries) => new Map(entries)),
      fc.dictionary(ids.map(String), number),
    ),
  }[kind];
}

const params: fc.Arbitrary<SamplingParams> = fc.record(
  {
    ...Object.fromEntries(samplingParametersWith("kind").map(([name, entry]) => [name, valueOf(entry)])),
    maxTokens: fc.integer({ min: 50, max: 90 }),
  },
  { requiredKeys: [] },
);

test("a request means the same after its way through the queue", () => {
  fc.assert(
    fc.property(params, fc.nat(2 ** 40), (given, seed) => {
      const job = readJob(JSON.parse(JSON.stringify(writeJob({ ...SMALLEST, params: { ...given, seed } }))));
      expect(resolveSamplingParams(job.params, limits)).toEqual(resolveSamplingParams({ ...given, seed }, limits));
    }),
  );
});

test("a job has everything that its request has beside parameters", () => {
  const others = {
    expert: "legal",
    priority: -2,
    client: "key:a",
    cacheSalt: "salt",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    prediction: "text",
    constraint: { kind: "regex" },
  };
  const job = readJob(JSON.parse(JSON.stringify(writeJob({ ...SMALLEST, ...others, expertTokens: [1, 2] }))));
  expect(job).toStrictEqual({
    version: 1,
    id: "r",
    prompt: [1],
    expertTokens: [1, 2],
    params: { maxTokens: 128, n: 1, seed: 1 },
    ...others,
  });
});

test.each([
  ["no object", 5],
  ["no fields", {}],
  ["another version", { ...writeJob(SMALLEST), version: 2 }],
  ["a field that no front writes", { ...writeJob(SMALLEST), module: "node:fs" }],
  [
    "a parameter that no front writes",
    { ...writeJob(SMALLEST), params: { maxTokens: 1, n: 1, seed: 1, path: "/etc/passwd" } },
  ],
  ["an id that is a path", { ...writeJob(SMALLEST), id: "../x" }],
  ["an id that ends a key", { ...writeJob(SMALLEST), id: "a}:log" }],
  ["a text as prompt", { ...writeJob(SMALLEST), prompt: "/etc/passwd" }],
  ["tokens that are none", { ...writeJob(SMALLEST), prompt: [1.5] }],
  [
    "tokens of more experts than models have",
    { ...writeJob(SMALLEST), expertTokens: Array.from({ length: 1e5 }, () => 1) },
  ],
  ["many choices", { ...writeJob(SMALLEST), params: { maxTokens: 1, n: 1e9, seed: 1 } }],
  ["a constraint without a kind", { ...writeJob(SMALLEST), constraint: { schema: {} } }],
])("a job is refused with %s", (_, data) => {
  expect(() => readJob(data)).toThrow(/^Expected a job of a front/);
});

test("a refusal quotes nothing of a job", () => {
  expect(() => readJob({ ...writeJob(SMALLEST), id: "secret\u0000" })).not.toThrow(/secret/);
});

test("larger priorities come first in the queue, where smaller numbers do", () => {
  expect([10, 1, 0.5, 0, -1, 1e12, -1e12].map(bullPriority)).toEqual([
    999_000, 999_900, 999_950, 1e6, 1_000_100, 1, 2_097_152,
  ]);
});

/** Writes a job with its fields in order. Comparing long lists value by value would take seconds. */
function sorted(job: FleetJob): string {
  return JSON.stringify(job, (_, value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}

test("two thousand hostile jobs are refused, or read as what a front could write, and never more", () => {
  const bait = { file: "/etc/passwd", module: "/tmp/module.mjs" };
  let numRefused = 0;
  for (const { data } of hostileJobs(2000, 1, bait)) {
    try {
      const job = readJob(data);
      const { prompt: promptIds, ...others } = job;
      expect(sorted(readJob(writeJob({ ...others, promptIds })))).toBe(sorted(job));
    } catch (error) {
      expect(error).toBeInstanceOf(TypeError);
      expect((error as TypeError).message).toMatch(/^Expected a job of a front, got another in `[\w. ]+`$/);
      numRefused++;
    }
  }
  expect(numRefused).toBeGreaterThan(1000);
  expect(numRefused).toBeLessThan(2000);
});
