// The sequences of the running step, each with the experts of its tokens.

import type { JSX } from "preact";
import type { LiveSequence, LiveSnapshot } from "../../shared/live.ts";
import { ownRequestId } from "../state/chat.ts";
import { ExpertMark } from "./expert-mark.tsx";

const MAX_MARKS = 7;

export interface LiveStepProps {
  readonly snapshot: LiveSnapshot;
  readonly experts: readonly string[];
}

export function LiveStep({ snapshot, experts }: LiveStepProps): JSX.Element {
  const { step } = snapshot;
  return (
    <section class="step" aria-label="Running step">
      <h3>{step ? `Step ${step.number}` : "No step"}</h3>
      {!step && <p class="small">Nothing runs. Send a message, or start a load.</p>}
      <ul>
        {step?.sequences.map((sequence) => (
          <li key={sequence.id}>
            <span class="name">{nameOf(sequence.id)}</span>
            <span class="small">{sequence.tokens > 1 ? `prefill ${sequence.tokens}` : "decode"}</span>
            <Experts sequence={sequence} experts={experts} />
          </li>
        ))}
      </ul>
      {step !== undefined && step.more > 0 && <p class="small">and {step.more} more</p>}
    </section>
  );
}

function Experts({ sequence, experts }: { readonly sequence: LiveSequence; readonly experts: readonly string[] }) {
  const most = sequence.experts.toSorted((a, b) => b[1] - a[1]).slice(0, MAX_MARKS);
  return (
    <span class="marks">
      {most.map(([expert, tokens]) => (
        <ExpertMark key={expert} expert={expert} name={`${experts[expert] ?? "expert"}: ${tokens}`} />
      ))}
    </span>
  );
}

/** Names a sequence by its id, which is the request's id with the number of the choice. */
function nameOf(sequenceId: string): string {
  const request = sequenceId.split("/")[0] ?? "";
  if (request === ownRequestId.value) return "you";
  const simulated = /^simulated-(\d+)-/.exec(request);
  return simulated ? `simulated ${simulated[1]}` : "another client";
}
