// What the figures of a report mean, in sentences that are computed from them.

import { decimals, grouped, listed, percent } from "./figures.ts";
import type { LossId } from "./loss-row.ts";
import type { LossRow, Report } from "./report.ts";

/** Differences below it are called none, in nats per token. */
const NOTHING = 0.005;
/** With fewer tokens of evaluation, small differences are likely to be chance. */
const ENOUGH_TOKENS = 50_000;

type Measured = Pick<Report, "losses" | "data" | "settings" | "expert_losses" | "router">;

/** Whole sentences about what is in the report; of what was not measured there is none. */
export function verdictOf(report: Measured): readonly string[] {
  const row = (id: LossId): LossRow | undefined => report.losses.find((candidate) => candidate.id === id);
  const ours = row("ours");
  return [
    ours && againstDense(ours),
    ours && againstStatic(ours, row("static"), report),
    ours && routerCost(ours, row("oracle_domain")),
    refittingGain(row("oracle_domain") ?? ours, row("paper")),
    choiceGain(row("oracle_domain") ?? ours, row("random")),
    headroom(ours, row("oracle_token")),
    specialists(report),
    unusedExperts(report),
    fewTokens(report),
  ].filter((sentence) => sentence !== undefined);
}

function againstDense({ above_dense: cost, ffn_share: share }: LossRow): string {
  const width = `with ${percent(share)} of the FFN's neurons per token`;
  if (Math.abs(cost) < NOTHING) return `Ours is as good as the dense model, ${width}.`;
  if (cost < 0) return `Ours is ${decimals(-cost)} nats per token better than the dense model, ${width}.`;
  const factor = decimals(Math.exp(cost));
  return `Ours loses ${decimals(cost)} nats per token against the dense model (perplexity times ${factor}), ${width}.`;
}

function againstStatic(ours: LossRow, single: LossRow | undefined, { data }: Measured): string | undefined {
  const gain = difference(single, ours);
  if (single === undefined || gain === undefined) return undefined;
  const rival = "one static expert of the same size";
  const means = `(${decimals(ours.mean, 3)} against ${decimals(single.mean, 3)})`;
  if (gain <= -NOTHING) {
    return `Ours is ${decimals(-gain)} nats worse than ${rival} ${means}: routing does not pay here.`;
  }
  if (gain < NOTHING) return `Ours is no better than ${rival} ${means}: routing gains nothing here.`;
  const losing = data.filter(({ name }) => (ours.losses[name] ?? 0) > (single.losses[name] ?? Infinity) + NOTHING);
  const except = losing.length === 0 ? "" : ` It is worse on ${listed(losing.map(({ name }) => name))}.`;
  return `Ours is ${decimals(gain)} nats better than ${rival} ${means}.${except}`;
}

function routerCost(ours: LossRow, oracle: LossRow | undefined): string | undefined {
  const cost = difference(ours, oracle);
  if (cost === undefined) return undefined;
  const rival = "choosing the expert by each document's domain";
  if (Math.abs(cost) < NOTHING) return `The router does as well as ${rival}.`;
  return cost > 0
    ? `The router costs ${decimals(cost)} nats against ${rival}.`
    : `The router is ${decimals(-cost)} nats better than ${rival}.`;
}

function refittingGain(fitted: LossRow | undefined, paper: LossRow | undefined): string | undefined {
  const gain = difference(paper, fitted);
  if (gain === undefined) return undefined;
  return gain >= NOTHING
    ? `Choosing and fitting neurons as here instead of by the paper's selection gains ${decimals(gain)} nats.`
    : `Fitting gains nothing over the paper's selection.`;
}

function choiceGain(fitted: LossRow | undefined, random: LossRow | undefined): string | undefined {
  const gain = difference(random, fitted);
  if (gain === undefined) return undefined;
  return gain >= NOTHING
    ? `Experts of neurons drawn by lot, fitted alike, are ${decimals(gain)} nats worse.`
    : `Experts of neurons drawn by lot, fitted alike, are as good: which neurons are kept does not matter here.`;
}

function headroom(ours: LossRow | undefined, best: LossRow | undefined): string | undefined {
  const gap = difference(ours, best);
  if (gap === undefined || gap < NOTHING) return undefined;
  return `A router that knew each token's best expert would be ${decimals(gap)} nats better than ours.`;
}

function specialists({ expert_losses: losses, settings, data }: Measured): string | undefined {
  if (losses === undefined || losses.length < 2) return undefined;
  const own = settings.experts.flatMap((name, expert) => {
    const domain = data.findIndex((candidate) => candidate.name === name);
    return domain < 0 ? [] : [{ name, expert, domain }];
  });
  if (own.length === 0) return undefined;
  const beaten = own.filter(({ expert, domain }) =>
    losses.some((row) => (row[domain] as number) < (losses[expert]?.[domain] as number) - NOTHING),
  );
  if (beaten.length === 0) return "On each domain, no expert is better than the domain's own.";
  return `Another expert is better than the domain's own on ${listed(beaten.map(({ name }) => name))}.`;
}

function unusedExperts({ router, settings }: Measured): string | undefined {
  if (router === undefined) return undefined;
  const unused = settings.experts.filter((_, expert) => (router.expert_shares[expert] as number) < 0.001);
  return unused.length === 0 ? undefined : `The router hardly ever chooses ${listed(unused)}.`;
}

function fewTokens({ data }: Measured): string | undefined {
  const tokens = data.reduce((sum, domain) => sum + domain.evaluation_tokens, 0);
  if (tokens >= ENOUGH_TOKENS) return undefined;
  return `All this was measured on ${grouped(tokens)} tokens only: differences of a few hundredths can be chance.`;
}

/** By how much `one` is above `other`; `undefined` where they were not measured on the same domains. */
function difference(one: LossRow | undefined, other: LossRow | undefined): number | undefined {
  if (one === undefined || other === undefined) return undefined;
  const domains = Object.keys(one.losses);
  if (domains.length !== Object.keys(other.losses).length) return undefined;
  if (!domains.every((domain) => domain in other.losses)) return undefined;
  // What both are above the dense model, so that rows of fewer documents compare, too.
  return one.above_dense - other.above_dense;
}
