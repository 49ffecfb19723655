// The time of simulated steps, against a plain account of one channel that reads one unit after the other.

import { ExpertCache, type CostModel, type ExpertLayout, type ExpertUnit } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import type { StepUses } from "../../packages/core/src/expert-cache/plan-reads.ts";
import { StepClock } from "../../packages/refactor/src/simulation/serve.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const COST: CostModel = { fixedMs: 6, msPerToken: 2, msPerExpert: 1, msPerCachedToken: 0.5, loadMsPerByte: 0.25 };

interface Setting {
  readonly layout: ExpertLayout;
  readonly budgetBytes: number;
  readonly lookaheadLayers: number;
  readonly overlapsReads: boolean;
}

interface Step {
  readonly running: StepUses;
  readonly planned: StepUses;
  readonly work: {
    readonly tokens: number;
    readonly distinctExperts: number;
    readonly cachedTokens: number;
  };
}

/** Times of a run, and how often it waited for what. */
interface Account {
  nowMs: number;
  stallMs: number;
  waitsForOwn: number;
  waitsForEvicted: number;
  /** Layers that began while a unit of the same layer was read for the next step. */
  readsNotAwaited: number;
}

function cacheOf({ layout, budgetBytes, lookaheadLayers }: Setting): ExpertCache {
  return new ExpertCache({ layout, budgetBytes, lookaheadLayers, policy: "lru" });
}

function plainRun(setting: Setting, steps: readonly Step[]): Account {
  const { layout, overlapsReads } = setting;
  const cache = cacheOf(setting);
  const account: Account = { nowMs: 0, stallMs: 0, waitsForOwn: 0, waitsForEvicted: 0, readsNotAwaited: 0 };
  const endMs = new Map<string, number>();
  let channelFreeMs = 0;
  const endOf = ({ layer, expert }: ExpertUnit): number => endMs.get(`${layer} ${expert}`) ?? 0;
  const waitUntil = (ms: number): boolean => {
    if (ms <= account.nowMs) return false;
    account.stallMs += ms - account.nowMs;
    account.nowMs = ms;
    return true;
  };
  for (const { running, planned, work } of steps) {
    for (const [layer, experts] of running.entries()) {
      const { evict, load } = cache.enterLayer({ layer, running, planned });
      for (const unit of evict) if (waitUntil(endOf(unit))) account.waitsForEvicted++;
      for (const unit of load) {
        channelFreeMs = Math.max(channelFreeMs, account.nowMs) + (layout.layerBytes[unit.layer] as number) / 4;
        endMs.set(`${unit.layer} ${unit.expert}`, channelFreeMs);
      }
      if (!overlapsReads) waitUntil(channelFreeMs);
      for (const expert of experts) if (waitUntil(endOf({ layer, expert }))) account.waitsForOwn++;
      for (let other = 0; other < layout.numExperts; other++) {
        if (endOf({ layer, expert: other }) > account.nowMs) account.readsNotAwaited++;
      }
      const stepMs = 6 + 2 * work.tokens + work.distinctExperts + work.cachedTokens / 2;
      account.nowMs += stepMs / layout.layerBytes.length;
      cache.ran(layer, experts);
    }
  }
  return account;
}

function realRun(setting: Setting, steps: readonly Step[]): Pick<Account, "nowMs" | "stallMs"> {
  const clock = new StepClock(cacheOf(setting), setting.layout, { cost: COST, overlapsReads: setting.overlapsReads });
  for (const { running, planned, work } of steps) clock.runStep(running, work, { planned });
  return { nowMs: clock.nowMs, stallMs: clock.stallMs };
}

function drawSetting(random: () => number): Setting {
  const numExperts = 2 + randomInteger(random, 5);
  const layerBytes = Array.from({ length: 1 + randomInteger(random, 4) }, () => 4 * (1 + randomInteger(random, 50)));
  const layout = { numExperts, layerBytes };
  const least = numExperts * Math.max(...layerBytes);
  const all = numExperts * layerBytes.reduce((sum, bytes) => sum + bytes, 0);
  const budgetBytes = least + randomInteger(random, all - least + 1);
  return { layout, budgetBytes, lookaheadLayers: randomInteger(random, 4), overlapsReads: random() < 0.8 };
}

/** Draws steps whose announced uses come true only in part, as those of requests that are aborted. */
function drawSteps(random: () => number, { layout }: Setting): readonly Step[] {
  const drawUses = (share: number): StepUses =>
    layout.layerBytes.map(() =>
      Array.from({ length: layout.numExperts }, (_, expert) => expert).filter(() => random() < share),
    );
  const uses = Array.from({ length: 9 }, () => drawUses(0.4));
  return uses.slice(1).map((running, index) => ({
    running,
    planned: random() < 0.8 ? (uses[index + 2] ?? []) : drawUses(0.3),
    work: {
      tokens: randomInteger(random, 10),
      distinctExperts: randomInteger(random, layout.numExperts + 1),
      cachedTokens: randomInteger(random, 50),
    },
  }));
}

test("agrees with a plain account of the reads and of what each layer waits for", () => {
  const random = seededRandom(11);
  const totals = { waitsForOwn: 0, waitsForEvicted: 0, readsNotAwaited: 0 };
  for (let round = 0; round < 400; round++) {
    const setting = drawSetting(random);
    const steps = drawSteps(random, setting);
    const { nowMs, stallMs, ...counts } = plainRun(setting, steps);
    const real = realRun(setting, steps);
    expect(real.nowMs).toBeCloseTo(nowMs, 6);
    expect(real.stallMs).toBeCloseTo(stallMs, 6);
    for (const name of ["waitsForOwn", "waitsForEvicted", "readsNotAwaited"] as const) totals[name] += counts[name];
  }
  expect(Math.min(...Object.values(totals))).toBeGreaterThan(30);
});

describe("a layer", () => {
  const layout = { numExperts: 3, layerBytes: [40] };
  const work = { tokens: 1, distinctExperts: 1, cachedTokens: 0 };

  test("does not wait for units that only the next step needs", () => {
    const setting = { layout, budgetBytes: 120, lookaheadLayers: 1, overlapsReads: true };
    // Each read takes 10 ms, and the layer 9 ms. The second read has 1 ms left when the next step begins.
    expect(realRun(setting, [{ running: [[0]], planned: [[1]], work }])).toEqual({ nowMs: 19, stallMs: 10 });
    expect(
      realRun(setting, [
        { running: [[0]], planned: [[1]], work },
        { running: [[1]], planned: [[]], work },
      ]),
    ).toEqual({ nowMs: 29, stallMs: 11 });
  });

  test("waits for the read of a unit that it evicts, whose memory is in use until then", () => {
    const setting = { layout, budgetBytes: 80, lookaheadLayers: 1, overlapsReads: true };
    // Expert 1 is read until 20 ms and not needed any more; experts 0 and 2 need its place from 19 ms on.
    expect(
      realRun(setting, [
        { running: [[0]], planned: [[1]], work },
        { running: [[0, 2]], planned: [[]], work },
      ]),
    ).toEqual({ nowMs: 39, stallMs: 21 });
  });
});
