// Sentences about a report, computed from its figures.

import type { LossId, LossRow, Report } from "./report.ts";

// Smaller differences count as none, in nats per token.
const NOTHING = 0.005;
// With fewer tokens of evaluation, small differences are likely to be chance.
const ENOUGH_TOKENS = 50_000;

type Measured = Pick<Report, "losses" | "data" | "settings" | "expert_losses" | "router">;

/** Writes whole sentences about what a report has figures for. */
export function verdictOf(report: Measured): readonly string[] {
  const row = (id: LossId): LossRow | undefined => report.losses.find((candidate) => candidate.id === id);
  const ours = row("ours");
  const oracle = row("oracle_domain");
  const sentences = [
    ours && againstDense(ours),
    ours && againstStatic(ours, row("static"), report),
    sayOf(routerCost, difference(ours, oracle)),
    sayOf(refittingGain, difference(row("paper"), oracle ?? ours)),
    sayOf(choiceGain, difference(row("random"), oracle ?? ours)),
    sayOf(headroom, difference(ours, row("oracle_token"))),
    specialists(report),
    unusedExperts(report),
    fewTokens(report),
  ];
  return sentences.filter((sentence) => sentence !== undefined);
}

/** Says something about a difference that was measured. */
function sayOf(say: (nats: number) => string | undefined, nats: number | undefined): string | undefined {
  return nats === undefined ? undefined : say(nats);
}

function againstDense({ above_dense: cost, ffn_share: share }: LossRow): string {
  const width = `using ${percent(share)} of the FFN's neurons per token`;
  if (Math.abs(cost) < NOTHING) return `This model is as good as the dense model, ${width}.`;
  if (cost < 0) return `This model is ${decimals(-cost)} nats per token better than the dense model, ${width}.`;
  const factor = decimals(Math.exp(cost));
  return `This model is ${decimals(cost)} nats per token worse than the dense model (perplexity times ${factor}), ${width}.`;
}

function againstStatic(ours: LossRow, single: LossRow | undefined, { data }: Measured): string | undefined {
  const gain = difference(single, ours);
  if (single === undefined || gain === undefined) return undefined;
  const rival = "one static expert of the same size";
  const means = `(${decimals(ours.mean, 3)} against ${decimals(single.mean, 3)})`;
  if (gain <= -NOTHING) {
    return `This model is ${decimals(-gain)} nats worse than ${rival} ${means}: routing does not pay here.`;
  }
  if (gain < NOTHING) return `This model is no better than ${rival} ${means}: routing gains nothing here.`;
  const losing = data.filter(({ name }) => (ours.losses[name] ?? 0) > (single.losses[name] ?? Infinity) + NOTHING);
  const except = losing.length === 0 ? "" : ` It is worse on ${listed(losing.map(({ name }) => name))}.`;
  return `This model is ${decimals(gain)} nats better than ${rival} ${means}.${except}`;
}

function routerCost(cost: number): string {
  const rival = "choosing the expert by each document's domain";
  if (Math.abs(cost) < NOTHING) return `The router is as good as ${rival}.`;
  return `The router is ${decimals(Math.abs(cost))} nats ${cost > 0 ? "worse" : "better"} than ${rival}.`;
}

function refittingGain(gain: number): string {
  const better = gain >= NOTHING ? `${decimals(gain)} nats better` : "no better";
  return `Selecting and refitting neurons is ${better} than the paper's selection.`;
}

function choiceGain(gain: number): string {
  const found = gain >= NOTHING ? `${decimals(gain)} nats worse` : "as good: the selection does not matter here";
  return `Experts of randomly chosen neurons, refitted in the same way, are ${found}.`;
}

function headroom(gap: number): string | undefined {
  if (gap < NOTHING) return undefined;
  return `A router that chose the best expert for every token would be ${decimals(gap)} nats better.`;
}

function specialists({ expert_losses: losses, settings, data }: Measured): string | undefined {
  if (losses === undefined || losses.length < 2) return undefined;
  const own = settings.experts.flatMap((name, expert) => {
    const domain = data.findIndex((candidate) => candidate.name === name);
    return domain < 0 ? [] : [{ name, domain, loss: losses[expert]?.[domain] ?? 0 }];
  });
  if (own.length === 0) return undefined;
  const beaten = own.filter(({ domain, loss }) => losses.some((row) => (row[domain] ?? Infinity) < loss - NOTHING));
  if (beaten.length === 0) return "On each domain, no expert is better than the domain's own.";
  return `Another expert is better than the domain's own on ${listed(beaten.map(({ name }) => name))}.`;
}

function unusedExperts({ router, settings }: Measured): string | undefined {
  if (router === undefined) return undefined;
  const unused = settings.experts.filter((_, expert) => (router.expert_shares[expert] ?? 0) < 0.001);
  return unused.length === 0 ? undefined : `The router hardly ever chooses ${listed(unused)}.`;
}

function fewTokens({ data }: Measured): string | undefined {
  const tokens = data.reduce((sum, domain) => sum + domain.evaluation_tokens, 0);
  if (tokens >= ENOUGH_TOKENS) return undefined;
  return `All of this was measured on only ${grouped(tokens)} tokens: differences of a few hundredths can be chance.`;
}

/** Computes by how much `one` is above `other`; `undefined` where they were not measured on the same domains. */
function difference(one: LossRow | undefined, other: LossRow | undefined): number | undefined {
  if (one === undefined || other === undefined) return undefined;
  const domains = Object.keys(one.losses);
  if (domains.length !== Object.keys(other.losses).length) return undefined;
  if (!domains.every((domain) => domain in other.losses)) return undefined;
  // Losses above the dense model's, so that rows of fewer documents compare as well.
  return one.above_dense - other.above_dense;
}

// Figures and foreign text, as they are written in sentences, tables, pictures and Markdown.

/** Writes a number with `digits` decimals; zero has no sign. */
export function decimals(value: number, digits = 2): string {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** Writes a difference with its sign; zero has none. */
export function signed(value: number, digits: number): string {
  const text = decimals(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text.replace("-", "−");
}

/** Writes a share in [0, 1] in per cent. */
export function percent(share: number): string {
  return `${decimals(share * 100, 0)} %`;
}

/** Writes a number with separators for thousands. */
export function grouped(count: number): string {
  return `${Math.round(count)}`.replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** Writes a large number with three leading digits: `6.89 million`. */
export function rounded(count: number): string {
  for (const [unit, name] of [
    [1e9, "billion"],
    [1e6, "million"],
  ] as const) {
    if (count >= unit) return `${(count / unit).toPrecision(3)} ${name}`;
  }
  return grouped(count);
}

export function duration(ms: number): string {
  if (ms < 60_000) return `${decimals(ms / 1000, ms < 10_000 ? 1 : 0)} s`;
  const minutes = Math.floor(ms / 60_000);
  const seconds = Math.floor((ms % 60_000) / 1000);
  return minutes < 60 ? `${minutes} min ${seconds} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  return count < 1e9 ? `${decimals(count / 1e6, 0)} MB` : `${decimals(count / 1e9)} GB`;
}

/** Lists words: `"a, b and c"`. */
export function listed(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} and ${last}`;
}

/** Escapes text from outside, such as names, as one line of plain Markdown. Underscores within words stay. */
export function markdownText(text: string): string {
  return oneLine(text)
    .replace(/[\\`*[\]<>|~$]|&(?=[\w#]+;)|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])/gu, "\\$&")
    .replace(/^(\d*)(?=[#+\-=.)])/u, "$1\\");
}

/** Writes text as code, with as many backticks around it as necessary; also within tables. */
export function markdownCode(text: string): string {
  const line = oneLine(text).replaceAll("|", "\\|");
  const longest = Math.max(0, ...Array.from(line.matchAll(/`+/g), ([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  const pad = longest > 0 || line === "" ? " " : "";
  return `${fence}${pad}${line}${pad}${fence}`;
}

/** Writes a table of cells that are Markdown. Columns of numbers are aligned to the right. */
export function markdownTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const numeric = header.map((_, column) =>
    rows.every((row) => /^(?:\*\*)?[+−]?[\d.,]+(?: %)?(?:\*\*)?$|^–$/.test(row[column] ?? "")),
  );
  const rule = numeric.map((isNumeric) => (isNumeric ? "--:" : "---"));
  return [header, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]+/gu, " ").trim();
}
