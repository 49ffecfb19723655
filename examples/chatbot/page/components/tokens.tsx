// Shows an answer's tokens in the colours of their experts, as text without markup.

import type { JSX } from "preact";
import { mergeSpans, type Span } from "../state/messages.ts";
import { showsNumbers } from "../state/settings.ts";
import { expertClass } from "./expert-mark.tsx";
import { highlighted } from "./legend.tsx";

export interface TokensProps {
  readonly text: string;
  readonly spans: readonly Span[];
  readonly experts: readonly string[];
}

export function Tokens({ text, spans, experts }: TokensProps): JSX.Element {
  let [at, before] = [0, -1];
  const lit = highlighted.value;
  const pieces = mergeSpans(spans).map(([length, expert], index) => {
    const piece = text.slice(at, at + length);
    const isChange = expert >= 0 && expert !== before;
    at += length;
    if (expert >= 0) before = expert;
    const name =
      expert < 0 ? "no expert: the last token does not run" : `${expert + 1} · ${experts[expert] ?? "expert"}`;
    return (
      <span
        key={index}
        class={`${expertClass(expert)}${lit < 0 || lit === expert ? "" : " dim"}`}
        data-expert={expert}
        data-number={isChange ? expert + 1 : undefined}
        title={name}
      >
        {piece}
      </span>
    );
  });
  return (
    <p class="tokens" data-numbers={showsNumbers.value ? "" : undefined}>
      {pieces}
    </p>
  );
}
