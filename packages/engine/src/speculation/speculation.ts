// The drafts of a step: before it, which tokens run although they are not known yet; after it, what became of them, and
// what the engine learns: how often drafts are right, what they cost, and which sequences have only weak ones.

import {
  type Acceptance,
  calibrate,
  calibrationFactor,
  chargeDraft,
  type CostModel,
  type Draft,
  type DraftAccount,
  type DraftCalibration,
  draftChances,
  type DraftSource,
  expectedTokens,
  newAcceptance,
  newDraftAccount,
  NO_CALIBRATION,
  NO_ROW_COSTS,
  observeDraft,
  planDrafts,
  predictStepMs,
  refineRowCosts,
  type Residency,
  rowMsOf,
  type StepWork,
  withRowMs,
} from "@readme-moe/core";
import type { KvMemory } from "@readme-moe/kernel";
import { type BatchItem, expertsOf, type ItemLogits, type ItemStates, type RoutedDraft, workOf } from "../batch.ts";
import { countDraft, type Sequence } from "../sequence.ts";
import type { Drafter, DraftQuestion, StepBeforeDrafts } from "./drafter.ts";

export interface SpeculationParts {
  readonly drafter: Drafter;
  readonly kv: KvMemory;
  readonly residency: Residency;
  /** Reports the experts of accepted tokens, as the routing of a sequence's own tokens is reported. */
  readonly onRouted: (sequence: Sequence, position: number, experts: Uint16Array) => void;
  /** Largest number of tokens in one step. */
  readonly maxNumBatchedTokens: number;
  /** Largest number of tokens of one sequence, prompt included. */
  readonly contextTokens: number;
}

/** A draft of an item before its length is planned. */
interface Proposal {
  readonly item: BatchItem;
  readonly draft: Draft;
  /** Chance of each token if those before it are accepted. */
  readonly chances: readonly number[];
  readonly allowanceMs: number;
}

interface StepDraft {
  /** All tokens that were proposed; those that do not run are compared with the sequence's tokens, too. */
  readonly draft: Draft;
  /** Time that the drafter took. */
  readonly drafterMs: number;
  /** Number of the sequence's known tokens before the step. */
  readonly numKnown: number;
  /** Room that the sequence had before the step. */
  readonly reservedTokens: number;
  /** Estimated chance of the first token. */
  readonly firstChance: number;
  /** Experts of the tokens that run. */
  experts: readonly number[];
  /** Number of tokens that are expected to be accepted, of those that run. */
  expectedTokens: number;
}

const NO_DRAFT: Draft = { source: "context", tokenIds: [], classes: [] };

// The kernel takes rows in groups, so that the first drafted token can cost more than the next ones, and drafts that
// run have to be taken back: a smaller predicted gain is a loss.
const LEAST_GAIN = 1.1;

// In a step where only tokens with a higher chance would pay, asking for drafts costs more than they bring.
const HOPELESS = 0.92;

/** Largest number of drafted tokens of a sequence, in a step of few sequences and of many. */
const MOST_DRAFT_TOKENS = 16;
const MOST_AMONG_MANY = 8;
const MANY = 8;

/** Adds drafts to steps, and takes back what is not accepted. The tokens of a sequence do not depend on them. */
export class Speculation {
  readonly #parts: SpeculationParts;
  readonly #learning = new DraftLearning();
  /** Drafts of the step that runs. */
  readonly #drafts = new Map<Sequence, StepDraft>();
  /** Number of known tokens of each sequence of the step that runs. */
  readonly #numKnown = new Map<Sequence, number>();
  /** States of steps since the last plan. */
  readonly #states: ItemStates[] = [];
  /** Predicted costs and known tokens of the step that runs. */
  #step: StepBeforeDrafts | undefined;

  constructor(parts: SpeculationParts) {
    this.#parts = parts;
  }

  /** Takes the model's states at the tokens of a step, which may still be taken back. */
  keep(states: readonly ItemStates[]): void {
    this.#states.push(...states);
  }

  /** Adds drafts to the sequences that decode, where they pay and there is room. */
  async extend(batch: readonly BatchItem[], cost: CostModel): Promise<readonly BatchItem[]> {
    this.#follow();
    this.#learning.begin();
    this.#step = undefined;
    const isAwake =
      !this.#learning.isResting || batch.some(({ sequence }) => this.#parts.drafter.isPromising(sequence));
    if (!isAwake || !batch.some((item) => this.#mayDraft(item))) return batch;
    const before = this.#learning.stepOf(cost, workOf(batch, this.#parts.residency.missingBytes));
    this.#step = before;
    if (leastChance(before) >= HOPELESS) return batch;
    for (const { sequence } of batch) this.#numKnown.set(sequence, sequence.numTokens);
    const proposals = await this.#proposals(batch, before);
    if (proposals.length === 0) {
      this.#learning.planned(false);
      return batch;
    }
    const experts = expertsOf(batch);
    // Routing takes time, so only tokens that pay with an expert of the step are routed.
    const [known = 0] = experts;
    const paying = this.#shortened(proposals, experts, ({ draft }) => draft.tokenIds.map(() => known));
    const routes = await routeDrafts(paying.map(({ item, draft }) => ({ sequence: item.sequence, draft })));
    const routesOf = ({ item }: Proposal): readonly number[] => routes.get(item.sequence) ?? [];
    for (const proposal of this.#shortened(paying, experts, routesOf)) this.#begin(proposal, routesOf(proposal));
    for (const { item } of paying) this.#rewindRouter(item.sequence);
    this.#learning.planned(Array.from(this.#drafts.values()).some((step) => step.experts.length > 0));
    return batch.map((item) => {
      const step = this.#drafts.get(item.sequence);
      return step && step.experts.length > 0 ? { ...item, draft: runningPart(step) } : item;
    });
  }

  /**
   * Takes back what is not accepted, after the step's tokens are part of their sequences, and learns from the outcome.
   * @param logits - rows of the step
   * @returns how many drafted tokens are part of their sequences; `undefined` if the step had no drafts
   */
  settle(logits: readonly ItemLogits[]): number | undefined {
    let accepted: number | undefined;
    const { drafter } = this.#parts;
    for (const { item, rows } of logits) {
      const { sequence, draft } = item;
      const numKnown = this.#numKnown.get(sequence);
      if (numKnown === undefined || !sequence.isSpeculated || this.#learning.isWeak(sequence)) continue;
      drafter.observe({ sequence, numKnown, draftIds: draft?.tokenIds ?? [], rows });
    }
    for (const [sequence, draft] of this.#drafts) {
      if (!this.#step || !sequence.slot) continue;
      this.#learning.learn(sequence, this.#step, draft);
      if (draft.experts.length > 0) accepted = (accepted ?? 0) + this.#takeBack(sequence, draft);
    }
    this.#drafts.clear();
    this.#numKnown.clear();
    return accepted;
  }

  /** Learns how long a step took. */
  complete(batch: readonly BatchItem[], durationMs: number): void {
    if (!this.#step || batch.some(({ numTokens }) => numTokens > 1)) return;
    const draftTokens = batch.reduce((sum, { draft }) => sum + (draft?.tokenIds.length ?? 0), 0);
    this.#learning.complete(this.#step, draftTokens, durationMs);
  }

  /** Suggests tokens after those of a bound sequence, for the question about the tokens that are allowed. */
  suggest(sequence: Sequence): readonly number[] {
    this.#follow();
    const step = this.#isWeak(sequence) ? undefined : this.#step;
    const question = this.#question(sequence, step);
    return (question && this.#parts.drafter.suggest(question, step)?.tokenIds) ?? [];
  }

  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#learning.forget(sequence);
    this.#drafts.delete(sequence);
    this.#parts.drafter.forget(sequence);
  }

  /** Asks for drafts of the sequences that decode. */
  async #proposals(batch: readonly BatchItem[], step: StepBeforeDrafts): Promise<readonly Proposal[]> {
    const asked = batch.flatMap((item) => {
      const question = this.#mayDraft(item) ? this.#question(item.sequence, step) : undefined;
      return question ? [{ ...question, item }] : [];
    });
    if (asked.length === 0) return [];
    const proposed = await this.#parts.drafter.propose(asked, step);
    return asked.flatMap(({ item, chancesOf, allowanceMs: allowedMs }, index) => {
      const { sequence } = item;
      const { draft, drafterMs } = proposed[index] ?? { draft: undefined, drafterMs: 0 };
      if (!sequence.slot) return [];
      const { reservedTokens } = sequence.slot;
      const chances = draft ? chancesOf(draft) : [];
      this.#drafts.set(sequence, {
        draft: draft ?? NO_DRAFT,
        firstChance: chances[0] ?? 0,
        drafterMs,
        numKnown: sequence.numTokens,
        reservedTokens,
        experts: [],
        expectedTokens: 0,
      });
      return draft ? { item, draft, chances, allowanceMs: allowedMs - drafterMs } : [];
    });
  }

  /** Shows the drafter the states of steps that have run. */
  #follow(): void {
    const followed = this.#states.splice(0).filter(({ sequence }) => sequence.slot && !sequence.finishReason);
    if (followed.length === 0) return;
    this.#parts.drafter.follow(followed.map(({ sequence: { id, tokenIds }, ...rows }) => ({ id, tokenIds, ...rows })));
  }

  #mayDraft({ sequence, numTokens, isLast }: BatchItem): boolean {
    const isDecoding = isLast && numTokens === 1;
    return isDecoding && sequence.isSpeculated && !this.#isWeak(sequence);
  }

  #isWeak(sequence: Sequence): boolean {
    return this.#learning.isWeak(sequence) && !this.#parts.drafter.isPromising(sequence);
  }

  /** Asks for a draft, of texts alone without a step. @returns `undefined` at the end of a sequence */
  #question(sequence: Sequence, step: StepBeforeDrafts | undefined): DraftQuestion | undefined {
    const toEnd = sequence.params.maxTokens - sequence.completionTokens - 1;
    const toContext = this.#parts.contextTokens - sequence.numTokens - 1;
    const most = (step?.work.tokens ?? 0) < MANY ? MOST_DRAFT_TOKENS : MOST_AMONG_MANY;
    const mostTokens = Math.min(most, toEnd, toContext);
    if (mostTokens < 1) return undefined;
    const chancesOf = (draft: Draft): readonly number[] => this.#learning.chances(sequence, draft);
    const allowanceMs = step ? this.#learning.allowanceMs(sequence, step) : 0;
    return { sequence, mostTokens, allowanceMs, chancesOf };
  }

  /** Shortens drafts to what pays; drops those of which nothing does. */
  #shortened(
    proposals: readonly Proposal[],
    experts: ReadonlySet<number>,
    expertsOfDraft: (proposal: Proposal) => readonly number[],
  ): readonly Proposal[] {
    const { maxNumBatchedTokens } = this.#parts;
    if (!this.#step) return [];
    const { cost, work } = this.#step;
    const lengths = planDrafts({
      step: work,
      experts,
      tokensLeft: maxNumBatchedTokens - work.tokens,
      cost,
      leastGain: LEAST_GAIN,
      drafts: proposals.map((proposal) => ({ ...proposal, experts: expertsOfDraft(proposal) })),
    });
    return proposals.flatMap((proposal, index) => {
      const length = lengths[index] ?? 0;
      const { source, tokenIds, classes } = proposal.draft;
      const draft = { source, tokenIds: tokenIds.slice(0, length), classes: classes.slice(0, length) };
      return length === 0 ? [] : { ...proposal, draft };
    });
  }

  /** Reserves the room of a draft. Without room it does not run. */
  #begin({ item: { sequence }, draft, chances }: Proposal, route: readonly number[]): void {
    const step = this.#drafts.get(sequence);
    const { slot, numTokens } = sequence;
    const length = draft.tokenIds.length;
    const { kv } = this.#parts;
    if (!step || !slot || !kv.states.reserve(slot, length) || !kv.reserve(slot, numTokens + length)) return;
    step.experts = route.slice(0, length);
    step.expectedTokens = expectedTokens(chances.slice(0, length));
  }

  /** Takes back routed tokens that do not run. */
  #rewindRouter(sequence: Sequence): void {
    const numDrafted = this.#drafts.get(sequence)?.experts.length ?? 0;
    sequence.router.rewind?.(sequence.routerState, sequence.numTokens + numDrafted);
  }

  /** Rewinds keys, values and router to the sequence's own tokens. @returns how many drafted tokens these have */
  #takeBack(sequence: Sequence, { draft, experts, numKnown, reservedTokens }: StepDraft): number {
    if (!sequence.slot) return 0;
    const { kv, onRouted } = this.#parts;
    const accepted = Math.min(experts.length, numEqual(sequence, draft, numKnown));
    const counts = { draftedTokens: experts.length, acceptedDraftTokens: accepted };
    sequence.drafts = countDraft(sequence.drafts, draft.source, counts);
    sequence.router.rewind?.(sequence.routerState, numKnown + accepted);
    // The last token of a sequence has no expert.
    const routed = Math.min(accepted, sequence.numTokens - numKnown - (sequence.finishReason ? 1 : 0));
    for (const expert of experts.slice(0, routed)) sequence.experts.push(expert);
    if (routed > 0) onRouted(sequence, numKnown, Uint16Array.from(experts.slice(0, routed)));
    const computed = Math.min(numKnown + accepted, sequence.numTokens - 1);
    if (sequence.slot.numTokens > computed) kv.truncate(sequence.slot, computed);
    // Truncating may free room that the sequence had before.
    kv.reserve(sequence.slot, Math.max(reservedTokens, computed));
    return accepted;
  }
}

/** Counts the first tokens of a draft that are the sequence's own. */
function numEqual({ tokenIds }: Sequence, draft: Draft, numKnown: number): number {
  const differs = draft.tokenIds.findIndex((id, place) => tokenIds[numKnown + place] !== id);
  return differs < 0 ? draft.tokenIds.length : differs;
}

/** Takes the tokens that run. */
function runningPart({ draft, experts }: StepDraft): RoutedDraft {
  return { tokenIds: draft.tokenIds.slice(0, experts.length), experts };
}

interface DraftRecord {
  acceptance: Acceptance;
  account: DraftAccount;
  /** Number of proposals in a row whose first token was not likely enough to run. */
  numWeak: number;
  /** Step before which there is no proposal. */
  nextStep: number;
}

// Proposals take time, more of it the more sequences a step has, and pay the more rarely.
const [LEAST_REST_STEPS, MOST_REST_STEPS] = [3, 8];
// Each time that as many plans have run nothing, the engine rests for one more step.
const IDLE_PLANS = 4;

class DraftLearning {
  #acceptance = newAcceptance("engine");
  readonly #calibrations = new Map<DraftSource, DraftCalibration>();
  #rowCosts = NO_ROW_COSTS;
  readonly #records = new Map<Sequence, DraftRecord>();
  #steps = 0;
  /** Number of plans in a row that ran nothing, and the step before which there is no other plan. */
  #numIdlePlans = 0;
  #nextPlan = 0;

  begin(): void {
    this.#steps++;
  }

  /** Describes a step, with what a drafted token adds to one of this size. */
  stepOf(cost: CostModel, work: StepWork): StepBeforeDrafts {
    return { cost: withRowMs(cost, rowMsOf(this.#rowCosts, work.tokens, cost), work), work };
  }

  /** Whether nothing is proposed in this step, since the last plans ran nothing. */
  get isResting(): boolean {
    return this.#nextPlan > this.#steps;
  }

  /** Learns whether a plan ran any draft. */
  planned(hasDrafts: boolean): void {
    this.#numIdlePlans = hasDrafts ? 0 : this.#numIdlePlans + 1;
    this.#nextPlan = this.#steps + 1 + Math.min(MOST_REST_STEPS, Math.floor(this.#numIdlePlans / IDLE_PLANS));
  }

  /** Whether nothing is proposed for a sequence in this step, since its last proposals were too weak. */
  isWeak(sequence: Sequence): boolean {
    return (this.#records.get(sequence)?.nextStep ?? 0) > this.#steps;
  }

  /** Computes how long a draft of the sequence may take. */
  allowanceMs(sequence: Sequence, step: StepBeforeDrafts): number {
    return this.#recordOf(sequence, step).account.balanceMs;
  }

  /** Estimates the chance of each token of a draft, if those before it are accepted. */
  chances(sequence: Sequence, draft: Draft): readonly number[] {
    const own = this.#records.get(sequence)?.acceptance ?? newAcceptance("sequence");
    const [first = 0, ...others] = draftChances(this.#acceptance, own, draft);
    const calibration = this.#calibrations.get(draft.source) ?? NO_CALIBRATION;
    return [Math.min(1, first * calibrationFactor(calibration)), ...others];
  }

  /** Compares a proposal with the sequence's tokens, whether they ran or not. */
  learn(sequence: Sequence, step: StepBeforeDrafts, proposal: StepDraft): void {
    const { cost, work } = step;
    const record = this.#recordOf(sequence, step);
    const { draft, firstChance, drafterMs, numKnown } = proposal;
    const draftTokens = proposal.experts.length;
    const numRight = numEqual(sequence, draft, numKnown);
    const accepted = Math.min(draftTokens, numRight);
    record.account = chargeDraft(record.account, { step: work, cost, draftTokens, drafterMs, accepted });
    record.numWeak = firstChance < leastChance(step) ? record.numWeak + 1 : 0;
    record.nextStep = this.#steps + 1 + Math.min(restSteps(work.tokens), Math.floor(record.numWeak / 2));
    if (draftTokens > 0) {
      const known = this.#calibrations.get(draft.source) ?? NO_CALIBRATION;
      this.#calibrations.set(draft.source, calibrate(known, proposal.expectedTokens, accepted));
    }
    const result = { verified: sequence.numTokens - numKnown, accepted: numRight };
    this.#acceptance = observeDraft(this.#acceptance, draft, result);
    record.acceptance = observeDraft(record.acceptance, draft, result);
  }

  /** Learns how long a step without prompts took. */
  complete({ cost, work }: StepBeforeDrafts, draftTokens: number, durationMs: number): void {
    const measured = { tokens: work.tokens, draftTokens, durationMs, predictedMs: predictStepMs(cost, work) };
    this.#rowCosts = refineRowCosts(this.#rowCosts, measured);
  }

  forget(sequence: Sequence): void {
    this.#records.delete(sequence);
  }

  #recordOf(sequence: Sequence, { cost, work }: StepBeforeDrafts): DraftRecord {
    const known = this.#records.get(sequence);
    if (known) return known;
    const account = newDraftAccount(cost, work);
    const record = { acceptance: newAcceptance("sequence"), account, numWeak: 0, nextStep: 0 };
    this.#records.set(sequence, record);
    return record;
  }
}

/** Computes the chance from which on one drafted token raises a step's tokens per millisecond. */
function leastChance({ cost, work }: StepBeforeDrafts): number {
  return (cost.msPerToken * work.tokens) / predictStepMs(cost, work);
}

/** Computes the longest rest of a sequence in a step of this many tokens. */
function restSteps(tokens: number): number {
  return Math.min(MOST_REST_STEPS, LEAST_REST_STEPS + Math.floor(tokens / 2));
}

/**
 * Routes drafts, in one call for all sequences of a router. States hold the tokens of drafts afterwards, until
 * they are rewound.
 *
 * @returns the experts of each sequence's draft; none where the router has failed
 */
async function routeDrafts(
  drafts: readonly { readonly sequence: Sequence; readonly draft: Draft }[],
): Promise<ReadonlyMap<Sequence, readonly number[]>> {
  const routes = new Map<Sequence, readonly number[]>();
  for (const router of new Set(drafts.map(({ sequence }) => sequence.router))) {
    const own = drafts.filter(({ sequence }) => sequence.router === router);
    try {
      const inputs = own.map(({ sequence, draft }) => ({ state: sequence.routerState, tokenIds: draft.tokenIds }));
      const routed = await router.route(inputs);
      for (const [index, { sequence }] of own.entries()) {
        routes.set(sequence, Array.from(routed[index]?.experts ?? []));
      }
    } catch {
      // The sequences go on without drafts. Their own tokens meet the router's failure, if it lasts.
    }
  }
  return routes;
}
