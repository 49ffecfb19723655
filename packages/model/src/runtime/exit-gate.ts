// Keeps the end of a process out of a thread's run of a graph. Node ends threads when the process exits, and the runtime
// does not survive that in the middle of a run: it aborts the process. So a thread says when it is inside, and the
// process waits until it is out before it exits.

const [INSIDE, IS_SHUT] = [0, 1];

/** Two counters that the thread which runs graphs and the one that waits for it both see. */
export type GateMemory = SharedArrayBuffer;

let gate: Int32Array | undefined;

/** The memory of a gate that is open, with nobody inside. One for each thread that runs graphs. */
export function newGate(): GateMemory {
  return new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
}

/** From here on, this thread goes through the gate whenever it enters the runtime. */
export function useGate(memory: GateMemory): void {
  const counters = new Int32Array(memory);
  gate = counters;
  // A thread may end by itself while it waits for its turn to run.
  process.once("exit", () => {
    Atomics.store(counters, INSIDE, 0);
    Atomics.notify(counters, INSIDE);
  });
}

/** Runs `work` inside the runtime. Never returns once the gate is shut. */
export async function throughGate<T>(work: () => Promise<T>): Promise<T> {
  if (!gate) return work();
  Atomics.add(gate, INSIDE, 1);
  try {
    if (Atomics.load(gate, IS_SHUT) === 1) {
      leave(gate);
      Atomics.wait(gate, IS_SHUT, 1);
    }
    return await work();
  } finally {
    leave(gate);
  }
}

function leave(counters: Int32Array): void {
  Atomics.sub(counters, INSIDE, 1);
  Atomics.notify(counters, INSIDE);
}

/** Lets nobody in any more, and blocks until everybody is out, or for `timeoutMs`. */
export function shutGate(memory: GateMemory, timeoutMs: number): void {
  const counters = new Int32Array(memory);
  Atomics.store(counters, IS_SHUT, 1);
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const inside = Atomics.load(counters, INSIDE);
    const leftMs = endMs - performance.now();
    if (inside <= 0 || leftMs <= 0) return;
    Atomics.wait(counters, INSIDE, inside, leftMs);
  }
}
