// The sequences of the running step, each with the experts of its tokens.

import type { JSX } from "preact";
import type { LiveSequence, LiveSnapshot } from "../../shared/live.ts";
import { nameSequences, ownRequests } from "../state/own-requests.ts";
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
      <h3>Being computed {step && <span class="small">step {step.number}</span>}</h3>
      <ul>
        {!step && <li class="small">Nothing. Send a message, or start simulated chats.</li>}
        {nameSequences(step?.sequences ?? [], ownRequests.now).map(({ sequence, name, isOwn }) => (
          <li key={sequence.id} class={isOwn ? "own" : ""}>
            <span class="name">{name}</span>
            <span class="small">{sequence.tokens > 1 ? `reads ${sequence.tokens}` : "writes"}</span>
            {experts.length > 1 && <Experts sequence={sequence} experts={experts} />}
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
