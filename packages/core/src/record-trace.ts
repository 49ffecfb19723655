// A trace: what a server did, or might do. It has the arrivals of sequences, their experts, and the experts of each
// step. Events of a running engine are recorded as one.
//
// As a file it has one line of JSON for the model and one for each sequence and step:
//
//   {"type":"model","num_experts":7,"layer_bytes":[1000000,1000000]}
//   {"type":"sequence","id":"s0","arrival_step":0,"prompt_tokens":3,"experts":[2,2,2,5]}
//   {"type":"step","step":0,"tokens_per_expert":[0,0,3,0,0,0,0]}
//
// A step of an engine with streamed experts also has the input of its expert cache; null stands for never:
//
//   "runs":[{"experts":[2],"planned":[2,5]}],"later_steps":[null,null,1,null,null,2,null]

import type { ExpertRun, ReadMeEmitter, ReadMeEvents } from "./events.ts";
import type { ExpertLayout } from "./expert-cache/cached-units.ts";

/** A sequence of a trace: its arrival, and the experts of its tokens. */
export interface TraceSequence {
  readonly id: string;
  /** First step that may contain the sequence. Steps are numbered from 0 up. */
  readonly arrivalStep: number;
  readonly promptTokens: number;
  /**
   * Expert of each token that runs, `[promptTokens + outputTokens - 1]`, at least `promptTokens`: the last generated
   * token never runs.
   */
  readonly experts: readonly number[];
}

/** The experts of a step that ran. */
export interface TraceStep {
  readonly step: number;
  /** Number of tokens of each expert, `[numExperts]`. */
  readonly tokensPerExpert: readonly number[];
  /** The step's runs through all layers, if an engine with streamed experts ran it. */
  readonly runs?: readonly ExpertRun[] | undefined;
  /** Number of steps until each expert's estimated use at that time, `[numExperts]`; `Infinity` is never. */
  readonly laterSteps?: readonly number[] | undefined;
}

/** Arrivals and routes, independent of any model; input of `simulate`. See `readTrace` and `writeTrace` for files. */
export interface ExpertTrace {
  readonly layout: ExpertLayout;
  /** Sequences in order of arrival. */
  readonly sequences: readonly TraceSequence[];
  /** Steps that ran, in order; empty if none has. */
  readonly steps: readonly TraceStep[];
}

/** Writes a trace as lines, each ended by a line feed. */
export function writeTrace({ layout, sequences, steps }: ExpertTrace): string {
  return [layoutLine(layout), ...sequences.map(sequenceLine), ...steps.map(stepLine)].join("");
}

/** Writes the first line of a trace. */
function layoutLine({ numExperts, layerBytes }: ExpertLayout): string {
  return lineOf({ type: "model", num_experts: numExperts, layer_bytes: layerBytes });
}

function sequenceLine({ id, arrivalStep, promptTokens, experts }: TraceSequence): string {
  return lineOf({ type: "sequence", id, arrival_step: arrivalStep, prompt_tokens: promptTokens, experts });
}

function stepLine({ step, tokensPerExpert, runs, laterSteps }: TraceStep): string {
  // JSON has no infinity.
  const laterOrNever = laterSteps?.map((steps) => (steps === Infinity ? null : steps));
  return lineOf({ type: "step", step, tokens_per_expert: tokensPerExpert, runs, later_steps: laterOrNever });
}

function lineOf(fields: object): string {
  return `${JSON.stringify(fields)}\n`;
}

interface TraceSink {
  /** Called when a sequence has ended, so in the order in which sequences end. */
  sequence(sequence: TraceSequence): void;
  /** Called when a step has run. */
  step(step: TraceStep): void;
}

/** Ends a recording. Running sequences are recorded as far as they have run. */
type StopRecording = () => void;

/** Records in memory. @returns a function that ends the recording and returns the trace */
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
 * Records as lines. Each line is written at once, so only running sequences are held in memory, and the lines written
 * so far are always a valid trace.
 *
 * @param write - receives whole lines with their line feeds
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

/** A sequence that has not ended yet. */
interface RunningSequence {
  readonly id: string;
  readonly promptTokens: number;
  readonly arrivalStep: number;
  readonly experts: number[];
  /** First position that ran; earlier ones came from the prefix cache. */
  firstPosition: number | undefined;
  /** End of the positions that have run. */
  end: number;
}

/**
 * Listens to an engine's events. Steps are numbered from the first one that is observed, and the numbers continue when
 * an engine opens again. A sequence is recorded with the tokens that have run: without those from the prefix cache,
 * and with each token once even if the sequence was preempted and ran again. Steps contain tokens as often as they
 * ran. Sequences that began before the recording are left out, but their tokens count in steps if their experts were
 * observed.
 */
function listenForTrace(events: ReadMeEmitter, numExperts: number, sink: TraceSink): StopRecording {
  const running = new Map<string, RunningSequence>();
  const routes = new Map<string, number[]>();
  let numSequences = 0;
  let pending: TraceStep | undefined;
  let nextStep = 0;
  /** Number that is added to the engine's step numbers. */
  let offset: number | undefined;

  const onRouted: ReadMeEvents["router:routed"] = ({ sequenceId, position, experts }) => {
    const known = routes.get(sequenceId) ?? [];
    routes.set(sequenceId, known);
    for (const [index, expert] of experts.entries()) known[position + index] = expert;
  };
  const onQueued: ReadMeEvents["sequence:queued"] = ({ sequenceId, promptTokens }) => {
    const experts = routes.get(sequenceId);
    if (!experts) return;
    // Request ids may repeat, and may be confidential.
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
        if (expert !== undefined) tokensPerExpert[expert] = (tokensPerExpert[expert] ?? 0) + 1;
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

/** Converts an ended sequence; `undefined` if none of its tokens ran. */
function recordedSequence(sequence: RunningSequence): TraceSequence | undefined {
  const { id, promptTokens, arrivalStep, experts, firstPosition: from, end } = sequence;
  if (from === undefined) return undefined;
  // The prompt of a sequence that ended within it is the part that ran.
  const promptEnd = Math.min(promptTokens, end);
  return { id, arrivalStep, promptTokens: Math.max(1, promptEnd - from), experts: experts.slice(from, end) };
}
