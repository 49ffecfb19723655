// A report as a refactoring writes one, with invented figures.

import { lossRow, type LossId, type LossRow, type Report } from "../../packages/refactor/src/report/report.ts";
import { verdictOf } from "../../packages/refactor/src/report/verdict.ts";
import { seededRandom } from "./random.ts";

const NAMES = ["arxiv", "book", "c4", "common_crawl", "github", "stackexchange", "wikipedia"];
const DENSE = [2.71, 3.19, 3.31, 3.02, 1.42, 2.66, 2.95];
const COSTS: readonly (readonly [LossId, number])[] = [
  ["paper", 1.53],
  ["random", 0.98],
  ["static", 0.72],
  ["oracle_domain", 0.61],
  ["oracle_token", 0.52],
  ["free", 0.33],
  ["ours", 0.63],
];
const TEXTS = [
  "We study the spectral gap of random regular graphs, and show that $\\lambda_2 \\le 2\\sqrt{d-1}$ holds for all but finitely many of them.",
  "The ship was three days out of Lisbon when the wind fell. “No luck,” said the captain;\nhe went below, and was not seen again that evening.\n\n",
  "If you are looking for a new recipe to try this weekend, you've come to the right place! Here are 10 easy meals.",
  "Home | News | Sport | Weather | 更多内容 🌍 | Sign in\nCopyright © 2019 All rights reserved.",
  "export function area({ width, height }: Box): number {\n\treturn width * height; // <b>&amp;\n}\n",
  "How can I sort a list of tuples by the second element? I tried `sorted(x)`, but it sorts by the first one.",
  "Ada Lovelace (10 December 1815 – 27 November 1852) was an English mathematician and writer.",
];

export interface MadeUpOptions {
  /** Each has an expert. @default 7 */
  readonly domains?: number;
  readonly layers?: number;
  readonly seed?: number;
}

export function madeUpReport({ domains = 7, layers = 12, seed = 1 }: MadeUpOptions = {}): Report {
  const random = seededRandom(seed);
  const noise = (spread: number): number => (random() - 0.5) * 2 * spread;
  const names = Array.from({ length: domains }, (_, i) => NAMES[i] ?? `domain ${i}`);
  const dense = Object.fromEntries(names.map((name, i) => [name, DENSE[i % DENSE.length] as number]));
  const losses: LossRow[] = [
    lossRow("dense", 1, dense, dense),
    ...COSTS.map(([id, cost]) => {
      const own = Object.entries(dense).map(([name, loss]) => [name, loss + cost * (1 + noise(0.3))]);
      return lossRow(id, 0.5, Object.fromEntries(own), dense);
    }),
  ];
  const matrix = (cell: (a: number, b: number) => number): number[][] =>
    names.map((_, a) => names.map((__, b) => cell(a, b)));
  const symmetric = matrix((a, b) => (a === b ? 1 : 0.55 + noise(0.2)));
  const overlap = matrix((a, b) => symmetric[Math.min(a, b)]?.[Math.max(a, b)] as number);
  const figures = {
    settings: {
      method: "sequential",
      experts: names,
      expert_size: 384,
      shared_size: 128,
      calibration_tokens: 32_768,
      seed,
      options: { own_share: 0.7, ridge: 0.001, error_share: 0.5 },
    },
    data: names.map((name, i) => ({
      name,
      files: [`calibration/${name}.jsonl`],
      calibration_documents: 40 + i,
      held_out_documents: 4,
      calibration_tokens: 32_768,
      router_tokens: 8192,
      evaluation_tokens: 4096,
      licenses: ["CC-BY-SA-4.0"],
    })),
    losses,
    expert_losses: matrix((a, b) => (DENSE[b % 7] as number) + 0.6 + (a === b ? 0 : 0.35 + noise(0.3))),
    router: {
      above_oracle_domain: 0.02,
      regret: 0.31,
      domain_agreement: 0.78,
      locality: 0.94,
      expert_shares: names.map(() => 1 / domains),
      domain_shares: matrix((a, b) => (a === b ? 0.78 : 0.22 / (domains - 1))),
      samples: names.map((domain, i) => ({ domain, pieces: routedWords(TEXTS[i % 7] as string, i, domains, random) })),
    },
  };
  return {
    version: 1,
    base: {
      name: "SmolLM2-135M-Instruct",
      source: "HuggingFaceTB/SmolLM2-135M-Instruct",
      hub_id: "HuggingFaceTB/SmolLM2-135M-Instruct",
      fingerprint: "sha256:8b3f0c1d",
      model_type: "llama",
      num_layers: layers,
      hidden_size: 576,
      ffn_size: 1024,
      parameters: 134_515_008,
      license: "Apache-2.0",
    },
    size: { parameters: 371_000_000, active_parameters: 94_700_000, router_parameters: 6_890_000 },
    ...figures,
    overlap: { mean: overlap, layers: Array.from({ length: layers }, () => overlap) },
    layers: Array.from({ length: layers }, (_, layer) => ({
      expert_size: 384,
      shared_size: 128,
      relative_errors: {
        ours: names.map(() => 0.12 + 0.012 * layer + noise(0.05)),
        static: [0.19 + 0.013 * layer + noise(0.02)],
      },
    })),
    verdict: verdictOf(figures),
    time: {
      total_ms: 754_321,
      stages: [
        { name: "calibration", ms: 241_000 },
        { name: "router", ms: 233_000 },
        { name: "evaluation", ms: 270_000 },
      ],
      peak_memory_bytes: 1_843_000_000,
      machine: { cores: 2, threads: 2, node: "v20.20.2", platform: "linux x64" },
    },
  };
}

/** Words as tokens; most go to the domain's expert. */
function routedWords(
  text: string,
  own: number,
  experts: number,
  random: () => number,
): { readonly text: string; readonly expert: number }[] {
  let expert = own;
  return (`${text} ${text}`.match(/\s?\w{1,6}|\s?[^\w\s]|\s/gu) ?? []).map((piece) => {
    if (random() < 0.15) expert = random() < 0.6 ? own : Math.floor(random() * experts);
    return { text: piece, expert };
  });
}
