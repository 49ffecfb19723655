// The runtime's own profile of a session: how long each node took, run by run.

import { median } from "readme-moe/bench";

interface ProfiledNode {
  readonly name: string;
  readonly type: string;
  /** Median over runs, without nodes of its branches, in microseconds. */
  readonly us: number;
}

export interface Profile {
  /** Those that ran. */
  readonly nodes: readonly ProfiledNode[];
  readonly numRuns: number;
  /** What the clock adds to each node, in microseconds; it is taken off. */
  readonly clockUs: number;
}

interface ProfileEvent {
  readonly cat: string;
  readonly name: string;
  readonly ts: number;
  readonly dur: number;
  readonly args: Readonly<Record<string, unknown>>;
}

const KERNEL = "_kernel_time";
const SHAPES_ONLY = new Set(["Reshape", "Squeeze", "Unsqueeze"]);

/**
 * Reads what the runtime writes with `enableProfiling`. Medians of nodes are added up later rather than times of runs: writing
 * events takes longer than most nodes, and other work on the machine hits few runs of each node.
 *
 * @param text - JSON; the list may lack its end, where a process ended early
 * @param warmUp - first runs that do not count
 */
export function readProfile(text: string, warmUp: number): Profile {
  const events = parseEvents(text);
  const starts = events.filter(({ name }) => name === "model_run").map(({ ts }) => ts);
  const from = starts.toSorted((a, b) => a - b)[warmUp] ?? Infinity;
  const kernels = events.filter(({ cat, name, ts }) => cat === "Node" && name.endsWith(KERNEL) && ts >= from);
  const samples = new Map<string, { readonly type: string; readonly us: number[] }>();
  for (const { event, ownUs } of withoutBranches(kernels)) {
    const name = event.name.slice(0, -KERNEL.length);
    const known = samples.get(name) ?? { type: String(event.args["op_name"]), us: [] };
    samples.set(name, known);
    known.us.push(ownUs);
  }
  const numRuns = Math.max(0, starts.length - warmUp);
  // A node that runs in some runs only, such as a skipped expert's, counts by how often it did.
  const medians = Array.from(samples, ([name, { type, us }]) => ({ name, type, us: median(us), runs: us.length }));
  const ownUs = clockUs(medians);
  const nodes = medians.map(({ name, type, us, runs }) => ({
    name,
    type,
    us: (Math.max(0, us - ownUs) * runs) / numRuns,
  }));
  return { nodes, numRuns, clockUs: ownUs };
}

function parseEvents(text: string): readonly ProfileEvent[] {
  const trimmed = text.trimEnd();
  return JSON.parse(trimmed.endsWith("]") ? trimmed : `${trimmed.replace(/,$/, "")}]`) as readonly ProfileEvent[];
}

interface Timed {
  readonly event: ProfileEvent;
  ownUs: number;
  /** What is between this node's end and the next one's start, where both stand in the same list of nodes. */
  gapUs: number | undefined;
}

/**
 * An `If` lasts as long as its branch, whose nodes are events of their own, and the writing of those events, which is as long as
 * a gap between nodes.
 */
function withoutBranches(events: readonly ProfileEvent[]): readonly Timed[] {
  const sorted = events.toSorted((a, b) => a.ts - b.ts || b.dur - a.dur);
  const entries: readonly Timed[] = sorted.map((event) => ({ event, ownUs: event.dur, gapUs: undefined }));
  const open: { readonly entry: Timed; numInner: number }[] = [];
  const ifs: { readonly entry: Timed; numInner: number }[] = [];
  let before: Timed | undefined;
  for (const entry of entries) {
    const { ts, dur, args } = entry.event;
    while (open.length > 0 && endOf(open.at(-1)?.entry.event as ProfileEvent) <= ts) open.pop();
    const parent = open.at(-1);
    if (parent) {
      parent.entry.ownUs -= dur;
      parent.numInner++;
    } else {
      if (before) before.gapUs = ts - endOf(before.event);
      before = entry;
    }
    if (args["op_name"] !== "If") continue;
    const own = { entry, numInner: 0 };
    open.push(own);
    ifs.push(own);
  }
  const gapUs = medianOr0(entries.flatMap((entry) => entry.gapUs ?? []));
  for (const { entry, numInner } of ifs) entry.ownUs = Math.max(0, entry.ownUs - numInner * gapUs);
  return entries;
}

/** What the clock costs: nodes that only give a tensor another shape do nothing themselves. */
function clockUs(nodes: readonly ProfiledNode[]): number {
  return medianOr0(nodes.filter(({ type }) => SHAPES_ONLY.has(type)).map(({ us }) => us));
}

function medianOr0(values: readonly number[]): number {
  return values.length > 0 ? median(values) : 0;
}

function endOf({ ts, dur }: ProfileEvent): number {
  return ts + dur;
}
