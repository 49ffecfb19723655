import type { JSX } from "preact";
import type { Message } from "../state/messages.ts";
import { Icon } from "./icon.tsx";

export interface ReasoningProps {
  readonly message: Message;
  /** Whether the model is still reasoning. */
  readonly isRunning: boolean;
}

/** Text that the model wrote before its answer, folded. */
export function Reasoning({ message, isRunning }: ReasoningProps): JSX.Element {
  const seconds = (message.reasoningMs ?? 0) / 1000;
  return (
    <details class="reasoning">
      <summary>
        <Icon name="chevron" />
        {isRunning ? "Reasoning …" : `Reasoned for ${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`}
      </summary>
      <p class="plain">{message.reasoning?.trim()}</p>
    </details>
  );
}
