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
const NOTHING: ProposedDraft = { draft: undefined, drafterMs: 0 };

export class EngineDrafter implements Drafter {
  readonly #texts = new TextDrafter();
  readonly #head: DraftingHead | undefined;
  /** Time that the last suggestions took, of bound sequences. */
  readonly #suggestedMs = new Map<Sequence, number>();

  constructor(head?: DraftingHead) {
    this.#head = head;
  }

  async propose(questions: readonly DraftQuestion[], step: StepBeforeDrafts): Promise<readonly ProposedDraft[]> {
    const drafts = questions.map((one) => this.#texts.propose(one.sequence, one.mostTokens, one.chancesOf));
    const free = Array.from(questions.keys()).filter((index) => !questions[index]?.sequence.isBound);
    const compared = this.#withHead(
      free.flatMap((index) => questions[index] ?? []),
      free.map((index) => drafts[index]),
      step,
    );
    const proposed: ProposedDraft[] = questions.map(({ sequence }, index) => ({
      draft: drafts[index],
      drafterMs: this.#suggestedMs.get(sequence) ?? 0,
    }));
    for (const [place, index] of free.entries()) proposed[index] = compared[place] ?? NOTHING;
    return proposed;
  }

  suggest(question: DraftQuestion, step: StepBeforeDrafts | undefined): Draft | undefined {
    const { sequence, mostTokens, chancesOf } = question;
    const text = this.#texts.likeliest(sequence, mostTokens, chancesOf);
    const [{ draft, drafterMs } = NOTHING] = step
      ? this.#withHead([question], [text], step)
      : [{ draft: text, drafterMs: 0 }];
    this.#texts.suggested(sequence, draft);
    this.#suggestedMs.set(sequence, drafterMs);
    return draft;
  }

  /** Lets the head draft where texts have nothing likely. @param drafts - of texts, one for each question */
  #withHead(
    questions: readonly DraftQuestion[],
    drafts: readonly (Draft | undefined)[],
    { work, cost }: StepBeforeDrafts,
  ): readonly ProposedDraft[] {
    const proposed: ProposedDraft[] = drafts.map((draft) => ({ draft, drafterMs: 0 }));
    const head = this.#head;
    if (!head) return proposed;
    const open = questions.flatMap((question, index) => {
      const draft = drafts[index];
      const isLikely = draft !== undefined && (question.chancesOf(draft)[0] ?? 0) >= LIKELY;
      const isAffordable = question.allowanceMs >= head.msPerToken(1);
      return isLikely || !isAffordable ? [] : [{ question, index }];
    });
    if (open.length === 0) return proposed;
    const asked = open.map(({ question: { sequence, mostTokens, chancesOf } }) => {
      const { id, tokenIds } = sequence;
      return { id, tokenIds, mostTokens, chancesOf };
    });
    const verifying = { tokens: work.tokens, ms: predictStepMs(cost, work), msPerRow: cost.msPerToken };
    const beforeMs = head.spentMs;
    const ofHead = head.propose(asked, verifying);
    const drafterMs = (head.spentMs - beforeMs) / open.length;
    for (const [place, { question, index }] of open.entries()) {
      const choices = [ofHead[place] ?? [], drafts[index] ?? []].flat().filter(({ tokenIds }) => tokenIds.length > 0);
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
