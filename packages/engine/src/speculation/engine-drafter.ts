// The drafter of an engine: texts first, and a trained head where these have nothing likely.

import { chooseDraft, predictStepMs } from "@readme-moe/core";
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

  constructor(head?: DraftingHead) {
    this.#head = head;
  }

  async propose(questions: readonly DraftQuestion[], step: StepBeforeDrafts): Promise<readonly ProposedDraft[]> {
    const drafts = questions.map((one) => this.#texts.propose(one.sequence, one.mostTokens, one.chancesOf));
    const proposed: ProposedDraft[] = drafts.map((draft) => ({ draft, drafterMs: 0 }));
    const head = this.#head;
    if (!head) return proposed;
    const open = questions.flatMap((question, index) => {
      const draft = drafts[index];
      const isLikely = draft !== undefined && (question.chancesOf(draft)[0] ?? 0) >= LIKELY;
      const isAffordable = question.allowanceMs >= head.msPerToken(1);
      return isLikely || question.sequence.isBound || !isAffordable ? [] : [{ question, index }];
    });
    if (open.length === 0) return proposed;
    const { work, cost } = step;
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

  suggest: Drafter["suggest"] = (...question) => this.#texts.suggest(...question);

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
    this.#head?.forget(sequence.id);
  };
}
