// The drafts of a step: before it, which tokens run although they are not known yet; after it, what became of them.

import { expectedTokens, planDrafts, type CostModel, type Draft, type Residency } from "@readme-moe/core";
import type { KvMemory } from "@readme-moe/kernel";
import { expertsOf, workOf, type BatchItem, type ItemLogits, type RoutedDraft } from "../batch.ts";
import type { Sequence } from "../sequence.ts";
import { countDraft } from "./draft-counts.ts";
import { DraftLearning, leastChance, type ProposalOutcome } from "./draft-learning.ts";
import type { Drafter, DraftQuestion, StepBeforeDrafts } from "./drafter.ts";
import { routeDrafts } from "./route-drafts.ts";

/** Parts that a `Speculation` is built from. */
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

/** The draft of a sequence in the step that runs. */
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
  /** Predicted costs and known tokens of the step that runs. */
  #step: StepBeforeDrafts | undefined;

  constructor(parts: SpeculationParts) {
    this.#parts = parts;
  }

  /** Adds drafts to the sequences that decode, where they pay and there is room. */
  async extend(batch: readonly BatchItem[], cost: CostModel): Promise<readonly BatchItem[]> {
    this.#learning.begin();
    this.#step = undefined;
    if (this.#learning.isResting || !batch.some((item) => this.#mayDraft(item))) return batch;
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
      this.#learning.learn(sequence, this.#step, outcomeOf(sequence, draft));
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
    const chancesOf = (draft: Draft): readonly number[] => this.#learning.chances(sequence, draft);
    return this.#parts.drafter.suggest(sequence, MOST_DRAFT_TOKENS, chancesOf)?.tokenIds ?? [];
  }

  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void {
    this.#learning.forget(sequence);
    this.#drafts.delete(sequence);
    this.#parts.drafter.forget(sequence);
  }

  /** Asks for drafts of the sequences that decode. */
  async #proposals(batch: readonly BatchItem[], step: StepBeforeDrafts): Promise<readonly Proposal[]> {
    const asked = batch.flatMap((item) => this.#question(item, step) ?? []);
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

  #mayDraft({ sequence, numTokens, isLast }: BatchItem): boolean {
    const isDecoding = isLast && numTokens === 1;
    return isDecoding && sequence.isSpeculated && !this.#learning.isWeak(sequence);
  }

  #question(
    item: BatchItem,
    { cost, work }: StepBeforeDrafts,
  ): (DraftQuestion & { readonly item: BatchItem }) | undefined {
    const { sequence } = item;
    if (!this.#mayDraft(item)) return undefined;
    const toEnd = sequence.params.maxTokens - sequence.completionTokens - 1;
    const toContext = this.#parts.contextTokens - sequence.numTokens - 1;
    const mostTokens = Math.min(work.tokens < MANY ? MOST_DRAFT_TOKENS : MOST_AMONG_MANY, toEnd, toContext);
    if (mostTokens < 1) return undefined;
    const chancesOf = (draft: Draft): readonly number[] => this.#learning.chances(sequence, draft);
    return { item, sequence, mostTokens, allowanceMs: this.#learning.allowanceMs(sequence, cost), chancesOf };
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
      return length === 0 ? [] : { ...proposal, draft: firstTokens(proposal.draft, length) };
    });
  }

  /** Reserves the room of a draft. Without room it does not run. */
  #begin({ item: { sequence }, draft, chances }: Proposal, route: readonly number[]): void {
    const step = this.#drafts.get(sequence);
    const { slot, numTokens } = sequence;
    const length = draft.tokenIds.length;
    if (!step || !slot || !this.#parts.kv.reserve(slot, numTokens + length)) return;
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

/** Compares a proposal with the sequence's tokens. */
function outcomeOf(sequence: Sequence, { experts, numKnown, ...step }: StepDraft): ProposalOutcome {
  const newTokens = sequence.numTokens - numKnown;
  const numRight = numEqual(sequence, step.draft, numKnown);
  return { ...step, draftTokens: experts.length, newTokens, numRight };
}

/** Takes the tokens that run. */
function runningPart({ draft, experts }: StepDraft): RoutedDraft {
  return { tokenIds: draft.tokenIds.slice(0, experts.length), experts };
}

function firstTokens({ source, tokenIds, classes }: Draft, length: number): Draft {
  return { source, tokenIds: tokenIds.slice(0, length), classes: classes.slice(0, length) };
}
