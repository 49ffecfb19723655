// Drafts over recorded answers: which tokens would have been accepted, and what the steps would have cost.

import {
  chooseDraft,
  chargeDraft,
  draftChances,
  newAcceptance,
  newDraftAccount,
  observeDraft,
  planDrafts,
  predictStepMs,
  type Acceptance,
  type CostModel,
  type Draft,
  type DraftAccount,
  type StepWork,
} from "@readme-moe/core";
import { RecycledTokens } from "../../packages/engine/src/speculation/recycled-tokens.ts";
import { proposeTextDrafts, TokenIndex } from "../../packages/engine/src/speculation/text-drafter.ts";
import type { RecordedAnswer } from "./record.ts";

export interface ReplayOptions {
  /** Number of requests that run at a time. */
  readonly requests: number;
  readonly cost: CostModel;
  readonly mostTokens: number;
  readonly sources: readonly ("context" | "recycled")[];
}

/** Outcomes of the tokens of one class that were compared with drawn ones. */
interface ClassCount {
  tried: number;
  accepted: number;
}

export interface ReplayResult {
  /** Tokens per millisecond over those without drafts, in steps with all `requests`. */
  readonly speedUp: number;
  readonly draftTokens: number;
  readonly acceptedTokens: number;
  readonly tokens: number;
  /** By source and class, for instance `context 3`. */
  readonly classes: ReadonlyMap<string, ClassCount>;
}

/** One running answer. */
class Running {
  readonly answer: RecordedAnswer;
  readonly index = new TokenIndex();
  position = 0;
  acceptance: Acceptance = newAcceptance("sequence");
  account: DraftAccount;

  constructor(answer: RecordedAnswer, { cost, requests }: Pick<ReplayOptions, "cost" | "requests">) {
    this.answer = answer;
    this.account = newDraftAccount(cost, { tokens: requests, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
    for (const id of answer.promptIds) this.index.push(id);
    // The first token comes from the step of the prompt.
    this.advance(1);
  }

  get isDone(): boolean {
    return this.position >= this.answer.tokenIds.length;
  }

  /** The last two tokens before a position of the answer. */
  before(position: number): readonly [number, number] {
    return [this.#at(position - 2), this.#at(position - 1)];
  }

  advance(count: number): void {
    for (const id of this.answer.tokenIds.slice(this.position, this.position + count)) this.index.push(id);
    this.position += count;
  }

  #at(position: number): number {
    const { promptIds, tokenIds } = this.answer;
    return position >= 0 ? (tokenIds[position] ?? -1) : (promptIds.at(position) ?? -1);
  }
}

/** Replays answers, each begun when a place is free. */
export function replay(answers: readonly RecordedAnswer[], options: ReplayOptions): ReplayResult {
  const { requests, cost, mostTokens, sources } = options;
  const recycled = new RecycledTokens();
  const classes = new Map<string, ClassCount>();
  let engine = newAcceptance("engine");
  let [ms, draftTokens, acceptedTokens, tokens] = [0, 0, 0, 0];
  const queue = answers.values();
  const running = new Set<Running>();
  const fill = (): void => {
    while (running.size < requests) {
      const { value: answer } = queue.next();
      if (!answer) return;
      const started = new Running(answer, options);
      if (!started.isDone) running.add(started);
    }
  };
  for (fill(); running.size > 0; fill()) {
    const all = Array.from(running);
    const step: StepWork = { tokens: all.length, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 };
    const proposals = all.map((one) => proposalsOf(one, recycled, { mostTokens, sources }));
    const chosen = all.map((one, at) => bestOf(engine, one.acceptance, proposals[at] ?? []));
    const drafts = all.map((one, at) => {
      const { chances = [] } = chosen[at] ?? {};
      return { chances, experts: chances.map(() => 0), allowanceMs: one.account.balanceMs };
    });
    const lengths = planDrafts({ step, experts: new Set([0]), tokensLeft: 64, cost, drafts });
    const rows = lengths.reduce((sum, length) => sum + length, 0);
    const isFull = running.size === requests;
    if (isFull) ms += predictStepMs(cost, { ...step, tokens: step.tokens + rows });
    for (const [at, one] of all.entries()) {
      const { answer, position } = one;
      const length = lengths[at] ?? 0;
      const rest = answer.tokenIds.slice(position);
      const accepted = numEqual(chosen[at]?.draft.tokenIds.slice(0, length) ?? [], rest);
      const drawn = Math.min(accepted + 1, rest.length);
      for (const draft of proposals[at] ?? []) {
        const verified = Math.min(draft.tokenIds.length, drawn);
        const outcome = { verified, accepted: Math.min(verified, numEqual(draft.tokenIds, rest)) };
        engine = observeDraft(engine, draft, outcome);
        one.acceptance = observeDraft(one.acceptance, draft, outcome);
        countAll(classes, draft, rest);
      }
      one.account = chargeDraft(one.account, { step, cost, draftTokens: length, accepted });
      for (let next = position; next < position + drawn; next++) learn(recycled, one, next);
      draftTokens += length;
      acceptedTokens += Math.min(accepted, rest.length - 1);
      if (isFull) tokens += drawn;
      one.advance(drawn);
      if (one.isDone) running.delete(one);
    }
  }
  const without =
    requests / predictStepMs(cost, { tokens: requests, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
  return { speedUp: tokens / ms / without, draftTokens, acceptedTokens, tokens, classes };
}

function proposalsOf(
  one: Running,
  recycled: RecycledTokens,
  { mostTokens, sources }: Pick<ReplayOptions, "mostTokens" | "sources">,
): readonly Draft[] {
  const lastTokens = one.before(one.position);
  const index = one.index;
  if (sources.length > 1) return proposeTextDrafts({ index, recycled, lastTokens, mostTokens });
  const [source] = sources;
  const draft = source === "context" ? index.propose(mostTokens) : recycled.propose(...lastTokens, mostTokens);
  return draft ? [draft] : [];
}

function bestOf(engine: Acceptance, own: Acceptance, drafts: readonly Draft[]) {
  const chances = drafts.map((draft) => draftChances(engine, own, draft));
  const best = chooseDraft(chances);
  const draft = drafts[best];
  return draft && { draft, chances: chances[best] ?? [] };
}

function learn(recycled: RecycledTokens, one: Running, at: number): void {
  const [before, last] = one.before(at);
  const { temperature, candidateIds, logprobs } = one.answer;
  // A greedy step computes one candidate.
  const count = temperature === 0 ? 1 : (candidateIds[at]?.length ?? 0);
  recycled.learn(before, last, {
    candidateIds: Int32Array.from((candidateIds[at] ?? []).slice(0, count)),
    candidateLogits: Float32Array.from(logprobs[at] ?? []),
    logSumExp: 0,
  });
}

/** Counts all tokens of a draft whose predecessors are right, whether they would have run or not. */
function countAll(classes: Map<string, ClassCount>, draft: Draft, rest: readonly number[]): void {
  for (const [at, id] of draft.tokenIds.entries()) {
    if (at >= rest.length) return;
    const name = `${draft.source} ${draft.classes[at] ?? 0}`;
    const count = classes.get(name) ?? { tried: 0, accepted: 0 };
    classes.set(name, count);
    count.tried++;
    if (id !== rest[at]) return;
    count.accepted++;
  }
}

function numEqual(draft: readonly number[], rest: readonly number[]): number {
  const at = draft.findIndex((id, index) => id !== rest[index]);
  return at < 0 ? draft.length : at;
}
