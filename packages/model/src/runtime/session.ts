// The only file that touches onnxruntime-node. The version is pinned: in it, inputs are read in place, which
// weights and KV caches passed as inputs rely on.

import { ReadMeError } from "@readme-moe/core";
import type { InferenceSession, Tensor } from "onnxruntime-node";
import type { ElementType } from "../onnx/graph-builder.ts";
import { throughGate } from "./exit-gate.ts";
import { explainLoadFailure, runtimeHost } from "./load-failure.ts";
import { disableTelemetry } from "./telemetry.ts";
import type { CachedGraph } from "./graph-cache.ts";

disableTelemetry();

/** A tensor passed into or got out of a graph: typed memory and its shape. */
export interface GraphTensor {
  /** It is fed again and again, so that what the runtime makes of it is kept as long as it lives. */
  readonly isLasting?: boolean | undefined;
  readonly data: Float64Array | Float32Array | BigInt64Array | Int32Array | Uint8Array | Int8Array | Uint16Array;
  readonly dims: readonly number[];
}

/** How the runtime runs a graph. */
export interface SessionOptions {
  /** Threads that one product is spread over, the calling one included. @default all cores */
  readonly threads?: number | undefined;
}

/** A graph ready to run. `run` blocks the calling thread until the graph is done. */
export class GraphSession {
  readonly #session: InferenceSession;
  readonly #Tensor: typeof Tensor;
  readonly #types: ReadonlyMap<string, ElementType>;
  /** Of no run just now; with hundreds of inputs, a new object for each run was most of what a step left to collect. */
  #inputs: Record<string, Tensor | undefined> | undefined = {};
  readonly #lasting = new WeakMap<GraphTensor, Tensor>();

  private constructor(session: InferenceSession, ort: Runtime) {
    this.#session = session;
    this.#Tensor = ort.Tensor;
    this.#types = new Map(
      session.inputMetadata.flatMap((input) => (input.isTensor ? [[input.name, input.type as ElementType]] : [])),
    );
  }

  /** @throws {ReadMeError} `ERR_RUNTIME` when the runtime refuses the graph */
  static async load(graph: CachedGraph, options: SessionOptions = {}): Promise<GraphSession> {
    const sessionOptions: InferenceSession.SessionOptions = {
      executionProviders: ["cpu"],
      graphOptimizationLevel: "all",
      // Shapes differ from step to step, so a pattern of one would be kept for nothing.
      enableMemPattern: false,
      // An arena keeps what the largest step took, 60 MB for a small model, and makes no step faster.
      enableCpuMemArena: false,
      logSeverityLevel: 3,
      extra: {
        session: {
          // Threads spin for more work while a graph runs, which is a fifth faster, and stop with it: else they take the cores
          // from what comes next, another session or the program's own, for longer than a small step takes.
          force_spinning_stop: "1",
        },
      },
      ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads, interOpNumThreads: 1 }),
    };
    const ort = await loadRuntime();
    try {
      return new GraphSession(await throughGate(() => createSession(ort, graph, sessionOptions)), ort);
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `The inference runtime refused the graph ${graph.name}: ${message(cause)}`, {
        cause,
      });
    }
  }

  /**
   * Runs the graph once, on all `feeds` together. Inputs are read in place; outputs are fresh copies.
   * @throws {ReadMeError} `ERR_RUNTIME` when an operator fails
   */
  run(...feeds: readonly Readonly<Record<string, GraphTensor>>[]): Promise<Outputs> {
    return this.runInto({}, ...feeds);
  }

  /**
   * The same; the outputs named in `memory` are written there, and are not copied. Its shapes must be theirs.
   * @throws {ReadMeError} `ERR_RUNTIME` when an operator fails, or a shape is another
   */
  async runInto(
    memory: Readonly<Record<string, GraphTensor>>,
    ...feeds: readonly Readonly<Record<string, GraphTensor>>[]
  ): Promise<Outputs> {
    // The runtime looks at its inputs later than now: calls at once have an object each.
    const inputs = this.#inputs ?? {};
    this.#inputs = undefined;
    for (const some of feeds) {
      for (const name in some) inputs[name] = this.#tensorOf(name, some[name] as GraphTensor);
    }
    try {
      const outputs = await throughGate(() =>
        this.#session.run(inputs as Record<string, Tensor>, this.#fetches(memory)),
      );
      return { ...(outputs as unknown as Outputs), ...memory };
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `The inference runtime failed: ${message(cause)}`, { cause });
    } finally {
      // What was fed is not kept, and what the next run does not feed is missing.
      for (const name in inputs) inputs[name] = undefined;
      this.#inputs = inputs;
    }
  }

  /** Each output by name, with the memory that it is to be written to, or `null`. */
  #fetches(memory: Readonly<Record<string, GraphTensor>>): Record<string, Tensor | null> {
    const fetches: Record<string, Tensor | null> = {};
    for (const name of this.#session.outputNames) {
      const place = memory[name];
      fetches[name] = place ? new this.#Tensor("float32", place.data as Float32Array, place.dims) : null;
    }
    return fetches;
  }

  #tensorOf(name: string, feed: GraphTensor): Tensor {
    const known = feed.isLasting ? this.#lasting.get(feed) : undefined;
    if (known) return known;
    const type = (this.#types.get(name) ?? "float32") as "float32";
    const tensor = new this.#Tensor(type, feed.data as Float32Array, feed.dims);
    if (feed.isLasting) this.#lasting.set(feed, tensor);
    return tensor;
  }

  async dispose(): Promise<void> {
    await this.#session.release();
  }
}

type Outputs = Readonly<Record<string, GraphTensor>>;

type Runtime = typeof import("onnxruntime-node");

/**
 * Only when there is a graph to run: whoever serves models from another process needs no runtime in this one, and some
 * versions of it do not get along in one process.
 */
async function loadRuntime(): Promise<Runtime> {
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    const why = explainLoadFailure(message(cause), runtimeHost());
    throw new ReadMeError("ERR_RUNTIME", `The inference runtime cannot be loaded: ${why}`, { cause });
  }
}

function createSession(
  { InferenceSession: Session }: Runtime,
  graph: CachedGraph,
  options: InferenceSession.SessionOptions,
): Promise<InferenceSession> {
  if (graph.kind === "file") return Session.create(graph.path, options);
  const externalData = [{ path: graph.dataName, data: graph.data }];
  return Session.create(graph.model, { ...options, externalData });
}

function message(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
