// A trace of an engine that runs, from its events alone: which experts its sequences need, and which its steps have.

import type { ReadMeEmitter } from "../emitter.ts";
import type { ReadMeEvents } from "../events.ts";
import type { ExpertLayout } from "../expert-cache/unit.ts";
import { layoutLine, sequenceLine, stepLine } from "./trace-lines.ts";
import type { ExpertTrace, TraceSequence, TraceStep } from "./trace.ts";

/** Takes what is recorded. */
interface TraceSink {
  /** When it has left the engine: sequences come in the order in which they end. */
  sequence(sequence: TraceSequence): void;
  /** When it has run. */
  step(step: TraceStep): void;
}

/** Ends a recording. Sequences that still run are taken in as far as they got. */
type StopRecording = () => void;

/** Records in memory. @returns ends the recording, and gives what was recorded */
export function recordTrace(events: ReadMeEmitter, layout: ExpertLayout): () => ExpertTrace {
  const sequences: TraceSequence[] = [];
  const steps: TraceStep[] = [];
  const stop = listenForTrace(events, layout.numExperts, {
    sequence: (sequence) => void sequences.push(sequence),
    step: (step) => void steps.push(step),
  });
  return () => {
    stop();
    return { layout, sequences: sequences.toSorted((a, b) => a.arrivalStep - b.arrivalStep), steps };
  };
}

/**
 * Records as lines, each written at once, so that only sequences that run are held in memory, and what was written is a
 * trace at any time.
 *
 * @param write - takes whole lines, with their line feeds
 */
export function recordTraceLines(
  events: ReadMeEmitter,
  layout: ExpertLayout,
  write: (line: string) => void,
): StopRecording {
  write(layoutLine(layout));
  return listenForTrace(events, layout.numExperts, {
    sequence: (sequence) => write(sequenceLine(sequence)),
    step: (step) => write(stepLine(step)),
  });
}

/** A sequence that has not left yet. */
interface RunningSequence {
  readonly id: string;
  readonly promptTokens: number;
  readonly arrivalStep: number;
  readonly experts: number[];
  /** Where it began to run: what lies before came from the prefix cache. */
  firstPosition: number | undefined;
  /** Positions before it have run. */
  end: number;
}

/**
 * Steps are numbered from the first one that is seen, and go on where an engine begins anew. Of a sequence those tokens
 * are recorded that have run: not those from the prefix cache, and each once, also where it was preempted and ran again
 * (steps have them as often as they ran). Sequences that began before are left out, but count in steps as far as their
 * experts are seen.
 */
function listenForTrace(events: ReadMeEmitter, numExperts: number, sink: TraceSink): StopRecording {
  const running = new Map<string, RunningSequence>();
  const routes = new Map<string, number[]>();
  let numSequences = 0;
  let pending: TraceStep | undefined;
  let nextStep = 0;
  /** To be added to the engine's numbers of steps. */
  let offset: number | undefined;

  const onRouted: ReadMeEvents["router:routed"] = ({ sequenceId, position, experts }) => {
    const known = routes.get(sequenceId) ?? [];
    routes.set(sequenceId, known);
    for (const [index, expert] of experts.entries()) known[position + index] = expert;
  };
  const onQueued: ReadMeEvents["sequence:queued"] = ({ sequenceId, promptTokens }) => {
    const experts = routes.get(sequenceId);
    if (!experts) return;
    // Names of requests may come again, and are nobody's business.
    const id = `s${numSequences++}`;
    running.set(sequenceId, { id, promptTokens, arrivalStep: nextStep, experts, firstPosition: undefined, end: 0 });
  };
  const onScheduled: ReadMeEvents["batch:scheduled"] = (batch) => {
    if (offset === undefined || batch.step + offset < nextStep) offset = nextStep - batch.step;
    const tokensPerExpert = Array.from({ length: numExperts }, () => 0);
    for (const [index, id] of batch.sequenceIds.entries()) {
      const [position, end] = rangeOf(batch, index);
      const experts: readonly (number | undefined)[] = routes.get(id)?.slice(position, end) ?? [];
      for (const expert of experts) {
        if (expert !== undefined) tokensPerExpert[expert] = (tokensPerExpert[expert] as number) + 1;
      }
      const sequence = running.get(id);
      if (!sequence) continue;
      sequence.firstPosition = Math.min(sequence.firstPosition ?? position, position);
      sequence.end = Math.max(sequence.end, end);
    }
    const step = batch.step + offset;
    nextStep = step + 1;
    writePending();
    if (tokensPerExpert.every((tokens) => tokens === 0)) return;
    pending = { step, tokensPerExpert, ...(batch.laterSteps && { laterSteps: batch.laterSteps }) };
  };
  const onCompleted: ReadMeEvents["batch:completed"] = ({ expertRuns: runs }) => {
    if (pending && runs) pending = { ...pending, runs };
    writePending();
  };
  const writePending = (): void => {
    if (pending) sink.step(pending);
    pending = undefined;
  };
  const leave = (id: string): void => {
    const sequence = running.get(id);
    running.delete(id);
    routes.delete(id);
    const recorded = sequence && recordedSequence(sequence);
    if (recorded) sink.sequence(recorded);
  };
  const onFinished: ReadMeEvents["sequence:finished"] = ({ sequenceId }) => leave(sequenceId);
  const leaveAll = (): void => {
    writePending();
    for (const id of running.keys()) leave(id);
    routes.clear();
  };

  events.on("router:routed", onRouted).on("sequence:queued", onQueued);
  events.on("batch:scheduled", onScheduled).on("batch:completed", onCompleted);
  events.on("sequence:finished", onFinished).on("engine:failed", leaveAll);
  return () => {
    events.off("router:routed", onRouted).off("sequence:queued", onQueued);
    events.off("batch:scheduled", onScheduled).off("batch:completed", onCompleted);
    events.off("sequence:finished", onFinished).off("engine:failed", leaveAll);
    leaveAll();
  };
}

function rangeOf(
  { positions, numTokens }: { readonly positions: readonly number[]; readonly numTokens: readonly number[] },
  index: number,
): readonly [from: number, end: number] {
  const from = positions[index] ?? 0;
  return [from, from + (numTokens[index] ?? 0)];
}

/** `undefined` where nothing of it ran. */
function recordedSequence(sequence: RunningSequence): TraceSequence | undefined {
  const { id, promptTokens, arrivalStep, experts, firstPosition: from, end } = sequence;
  if (from === undefined) return undefined;
  // One that left within its prompt had as much of it as ran.
  const promptEnd = Math.min(promptTokens, end);
  return { id, arrivalStep, promptTokens: Math.max(1, promptEnd - from), experts: experts.slice(from, end) };
}
