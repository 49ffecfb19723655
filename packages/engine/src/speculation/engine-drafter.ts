// The drafter of an engine: texts first, and a trained head where these have nothing likely.

import { chooseDraft, type Draft, predictStepMs } from "@readme-moe/core";
import type {
  Drafter,
  DraftQuestion,
  DraftingHead,
  FollowedRows,
  ProposedDraft,
  StepBeforeDrafts,
  StepRows,
} from "./drafter.ts";
import type { Sequence } from "../sequence.ts";
import { TextDrafter } from "./text-drafter.ts";

// With a chance of the first token from here on, a text's draft runs at once: a head would take longer.
const LIKELY = 0.75;

export class EngineDrafter implements Drafter {
  readonly #texts = new TextDrafter();
  readonly #head: DraftingHead | undefined;
  /** Time that suggestions took which are not charged yet, of bound sequences. */
  readonly #suggestedMs = new Map<Sequence, number>();

  constructor(head?: DraftingHead) {
    this.#head = head;
  }

  async propose(questions: readonly DraftQuestion[], step: StepBeforeDrafts): Promise<readonly ProposedDraft[]> {
    const proposed = questions.map(({ sequence, mostTokens, chancesOf }) => ({
      draft: this.#texts.propose(sequence, mostTokens, chancesOf),
      drafterMs: this.#suggestedMs.get(sequence) ?? 0,
    }));
    for (const { sequence } of questions) this.#suggestedMs.delete(sequence);
    const free = (index: number): boolean => questions[index]?.sequence.isBound === false;
    return this.#withHead(questions, proposed, step, free);
  }

  suggest(question: DraftQuestion, step: StepBeforeDrafts | undefined): Draft | undefined {
    const { sequence, mostTokens, chancesOf } = question;
    const text = { draft: this.#texts.likeliest(sequence, mostTokens, chancesOf), drafterMs: 0 };
    const [{ draft, drafterMs } = text] = step ? this.#withHead([question], [text], step) : [text];
    this.#texts.suggested(sequence, draft);
    this.#suggestedMs.set(sequence, drafterMs);
    return draft;
  }

  /** Lets the head draft where texts have nothing likely. */
  #withHead(
    questions: readonly DraftQuestion[],
    ofTexts: readonly ProposedDraft[],
    { work, cost }: StepBeforeDrafts,
    isAsked: (index: number) => boolean = () => true,
  ): readonly ProposedDraft[] {
    const head = this.#head;
    if (!head) return ofTexts;
    const open = questions.flatMap((question, index) => {
      const draft = ofTexts[index]?.draft;
      const isLikely = draft !== undefined && (question.chancesOf(draft)[0] ?? 0) >= LIKELY;
      const isAffordable = question.allowanceMs >= head.msPerToken(1);
      return isLikely || !isAffordable || !isAsked(index) ? [] : [{ question, index, draft }];
    });
    if (open.length === 0) return ofTexts;
    const asked = open.map(({ question: { sequence, mostTokens, chancesOf } }) => {
      const { id, tokenIds } = sequence;
      return { id, tokenIds, mostTokens, chancesOf };
    });
    const verifying = { tokens: work.tokens, ms: predictStepMs(cost, work), msPerRow: cost.msPerToken };
    const beforeMs = head.spentMs;
    const ofHead = head.propose(asked, verifying);
    const drafterMs = (head.spentMs - beforeMs) / open.length;
    const proposed = [...ofTexts];
    for (const [place, { question, index, draft }] of open.entries()) {
      const choices = [ofHead[place] ?? [], draft ?? []].flat().filter(({ tokenIds }) => tokenIds.length > 0);
      proposed[index] = { draft: choices[chooseDraft(choices.map(question.chancesOf))], drafterMs };
    }
    return proposed;
  }

  observe(step: StepRows): void {
    this.#texts.observe(step);
  }

  follow(rows: readonly FollowedRows[]): void {
    this.#head?.follow(rows);
  }

  isPromising({ id }: Sequence): boolean {
    return this.#head?.isPromising(id) ?? false;
  }

  forget: Drafter["forget"] = (sequence) => {
    this.#texts.forget(sequence);
    this.#suggestedMs.delete(sequence);
    this.#head?.forget(sequence.id);
  };
}
