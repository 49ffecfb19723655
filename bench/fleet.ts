// Simulates a fleet of machines under placements: who decides where a job runs. Nothing is measured; the same seeds give
// the same tables on every machine.
//
//   npm run bench:fleet -- [--tables bound,goodput,memory,machines,experts,trouble] [--seeds 1,2,3] [--seconds 30]
//     [--loads 0.7,0.85,1,1.15] [--placements read-me,affinity] [--json FILE]

import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { FleetResult } from "@readme-moe/refactor/simulation";
import { markdownTable } from "./kit/report.ts";
import { meanResult, PLACEMENTS, type FleetCase, type PlacementName, runCase } from "./fleet/cases.ts";
import { fewestExperts } from "./fleet/bound.ts";
import { mainRoutes, MODELS, ROUTES } from "./fleet/profiles.ts";

const { values } = parseArgs({
  options: {
    tables: { type: "string", default: "bound,goodput,memory,machines,experts,trouble" },
    seeds: { type: "string", default: "1,2" },
    seconds: { type: "string", default: "30" },
    loads: { type: "string" },
    placements: { type: "string", default: Object.keys(PLACEMENTS).join() },
    json: { type: "string" },
  },
});

const seeds = values.seeds.split(",").map(Number);
/** Loads of tables that have several; the others have one. */
const LOADS: Readonly<Record<string, readonly number[]>> = {
  goodput: [0.7, 0.85, 1, 1.15],
  memory: [0.15, 0.3, 0.45, 0.6],
  machines: [0.95],
  experts: [0.95],
  trouble: [0.85],
};
const seconds = Number(values.seconds);
const names = values.placements.split(",").filter((name): name is PlacementName => name in PLACEMENTS);

/** Figures of one case, placement and load. */
interface Row {
  readonly table: string;
  readonly title: string;
  readonly placement: string;
  readonly load: number;
  readonly figures: Readonly<Record<string, number>>;
}

const rows: Row[] = [];

const base = { model: MODELS["1b"], routes: ROUTES.ours, machines: 4, memory: 1 };
const halfMemory = 4 / 7;
/** Cases by table and title. */
const TABLES: Readonly<Record<string, Readonly<Record<string, FleetCase>>>> = {
  goodput: {
    "135M, our routes": { ...base, model: MODELS["135m"] },
    "1B, our routes": base,
    "135M, the paper's locality": { ...base, model: MODELS["135m"], routes: ROUTES.paper },
    "1B, the paper's locality": { ...base, routes: ROUTES.paper },
  },
  memory: {
    "135M, room for four of seven experts": { ...base, model: MODELS["135m"], memory: halfMemory },
    "1B, room for four of seven experts": { ...base, memory: halfMemory },
  },
  machines: Object.fromEntries(
    [2, 8, 16, 64].map((machines) => [`1B, our routes, ${machines} machines`, { ...base, machines }]),
  ),
  experts: Object.fromEntries(
    [16, 64].map((experts) => [
      `1B, ${experts} experts, 8 machines`,
      { ...base, machines: 8, routes: mainRoutes(experts, 0.87, 0.92) },
    ]),
  ),
  trouble: {
    "1B, hot spots move every five seconds": { ...base, shiftEveryMs: 5000 },
    "1B, bursts of three times the rate": { ...base, burst: 3 },
    "1B, equal shares of domains": { ...base, skew: 0 },
    "1B, one machine dies, one joins": {
      ...base,
      machines: 5,
      faults: [
        { atMs: 0.4 * seconds * 1000, worker: 1, kind: "die" },
        { atMs: 0.6 * seconds * 1000, worker: 4, kind: "start" },
      ],
    },
    "1B, one machine at half speed": { ...base, faults: [{ atMs: 0, worker: 2, kind: "slow", slowdown: 2 }] },
  },
};

/** Columns of the detailed tables: figure, decimal places, and factor. */
const DETAILS: Readonly<Record<string, readonly [name: string, digits: number, factor?: number]>> = {
  "goodput, jobs/s": ["goodputPerS", 1],
  "experts a step": ["distinctExperts", 2],
  "busiest / mean": ["busiestOverMean", 2],
  "first token p50, ms": ["firstTokenP50Ms", 0],
  p95: ["firstTokenP95Ms", 0],
  "per token p95, ms": ["perTokenP95Ms", 0],
  "wait p95, ms": ["waitP95Ms", 0],
  refused: ["refused", 0],
  dropped: ["dropped", 0],
  "GB read": ["bytesRead", 1, 1e-9],
  stolen: ["stolen", 0],
  "homes moved": ["movedHomes", 0],
};

for (const table of values.tables.split(",")) {
  if (table === "bound") printBound();
  for (const [title, fleet] of Object.entries(TABLES[table] ?? {})) {
    for (const load of values.loads?.split(",").map(Number) ?? LOADS[table] ?? [1]) {
      for (const placement of names) {
        const results = seeds.map((seed): FleetResult => {
          // Large fleets run for a shorter time, with as many jobs.
          const simulatedS = seconds * Math.min(1, 8 / fleet.machines);
          return runCase(fleet, PLACEMENTS[placement], { load, seed, seconds: simulatedS });
        });
        rows.push({ table, title, placement, load, figures: meanResult(results) });
        process.stderr.write(`${title}, ${placement}, load ${load}\n`);
      }
    }
    printCase(title);
  }
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ seeds, seconds, rows }, null, 1)}\n`);

/** Prints goodput by load, and all figures at the last load but one, or at the only one. */
function printCase(title: string): void {
  const own = rows.filter((row) => row.title === title);
  const used = Array.from(new Set(own.map(({ load }) => load)));
  const detailed = used.at(-2) ?? used[0];
  const figure = (placement: string, load: number | undefined, name: string): number =>
    own.find((row) => row.placement === placement && row.load === load)?.figures[name] ?? Number.NaN;
  const goodput = names.map((name) => [name, ...used.map((load) => figure(name, load, "goodputPerS").toFixed(1))]);
  if (used.length > 1) {
    const columns = ["goodput, jobs/s, at load", ...used.map(String)];
    process.stdout.write(`${markdownTable({ title, columns, rows: goodput })}\n\n`);
  }
  const columns = Object.keys(DETAILS);
  const details = names.map((name) => [
    name,
    ...Object.values(DETAILS).map(([key, digits, scale = 1]) => (figure(name, detailed, key) * scale).toFixed(digits)),
  ]);
  const table = { title: `${title}, load ${detailed}`, columns: ["", ...columns], rows: details };
  process.stdout.write(`${markdownTable(table)}\n\n`);
}

/** Prints the fewest distinct experts of a step of four machines whose places are all taken. */
function printBound(): void {
  const cells = Object.entries(ROUTES).flatMap(([name, { shares }]) =>
    [8, 16, 32].map((places) => {
      const { best, mixed } = fewestExperts({ shares, machines: 4, places });
      return [name, String(places), best.toFixed(2), mixed.toFixed(2)];
    }),
  );
  const columns = ["routes", "sequences of a machine", "best placement", "all machines alike"];
  const table = { title: "Experts a step of 4 machines, expected", columns, rows: cells };
  process.stdout.write(`${markdownTable(table)}\n\n`);
}
