// The only file that touches onnxruntime-node.

import { ReadMeError } from "@readme-moe/core";
import type { InferenceSession, Tensor } from "onnxruntime-node";
import { fillData } from "../graph/data-file.ts";
import { encodeGraph } from "../graph/encode.ts";
import type { ElementType, Graph } from "../graph/graph-builder.ts";
import { explainLoadFailure, runtimeHost } from "./load-failure.ts";

// Without this variable, set before the first session, the runtime's builds for Node keep a database of telemetry in
// the user's home folder.
process.env["ORT_DISABLE_TELEMETRY"] ??= "1";

/** Input or output of a graph: typed memory and its shape. */
export interface GraphTensor {
  readonly data: Float64Array | Float32Array | BigInt64Array | Int32Array | Uint8Array | Int8Array | Uint16Array;
  readonly dims: readonly number[];
}

/** Inputs or outputs of a graph, by name. */
export type Feeds = Readonly<Record<string, GraphTensor>>;

/** Finds a float32 output of a run. @throws {TypeError} when there is none with this name */
export function floatOutput(outputs: Feeds, name: string): Float32Array {
  const data = outputs[name]?.data;
  if (data instanceof Float32Array) return data;
  throw new TypeError(`Expected the output \`${name}\` to be float32, got ${data ? "another type" : "none"}`);
}

/** Options of a session. */
export interface SessionOptions {
  /** Number of threads of one product, the calling one included. @default all cores */
  readonly threads?: number | undefined;
}

const DATA_NAME = "weights.bin";

/** A graph that is ready to run. `run` blocks the calling thread until the graph is done. */
export class GraphSession {
  readonly #session: InferenceSession;
  readonly #Tensor: typeof Tensor;
  readonly #types: ReadonlyMap<string, ElementType>;

  private constructor(session: InferenceSession, ort: Runtime) {
    this.#session = session;
    this.#Tensor = ort.Tensor;
    this.#types = new Map(
      session.inputMetadata.flatMap((input) => (input.isTensor ? [[input.name, input.type as ElementType]] : [])),
    );
  }

  /**
   * Opens a session of a graph in memory.
   *
   * @throws {ReadMeError} `ERR_RUNTIME` when the runtime cannot be loaded, or refuses the graph
   */
  static async open(graph: Graph, options: SessionOptions = {}): Promise<GraphSession> {
    const encoded = await encodeGraph(graph, DATA_NAME);
    // The runtime refuses a file without bytes.
    const data = new Uint8Array(Math.max(1, encoded.dataBytes));
    await fillData(encoded, data);
    const externalData = [{ path: DATA_NAME, data }];
    const { session, ort } = await create(graph.name, options, ({ InferenceSession: Session }, sessionOptions) =>
      Session.create(encoded.model, { ...sessionOptions, externalData }),
    );
    return new GraphSession(session, ort);
  }

  /**
   * Opens a session of a graph's file.
   *
   * @throws {ReadMeError} `ERR_RUNTIME` when the runtime cannot be loaded, or refuses the graph
   */
  static async openFile(path: string, options: SessionOptions = {}): Promise<GraphSession> {
    const { session, ort } = await create(path, options, ({ InferenceSession: Session }, sessionOptions) =>
      Session.create(path, sessionOptions),
    );
    return new GraphSession(session, ort);
  }

  /**
   * Runs the graph once. Inputs are read in place; outputs are fresh copies.
   *
   * @throws {ReadMeError} `ERR_RUNTIME` when an operator fails
   */
  async run(feeds: Feeds): Promise<Feeds> {
    const inputs = Object.fromEntries(Object.entries(feeds).map(([name, feed]) => [name, this.#tensorOf(name, feed)]));
    try {
      return (await this.#session.run(inputs)) as unknown as Feeds;
    } catch (cause) {
      throw new ReadMeError("ERR_RUNTIME", `The inference runtime failed: ${message(cause)}`, { cause });
    }
  }

  #tensorOf(name: string, feed: GraphTensor): Tensor {
    const type = (this.#types.get(name) ?? "float32") as "float32";
    return new this.#Tensor(type, feed.data as Float32Array, feed.dims);
  }

  /** Frees the runtime's memory. */
  async dispose(): Promise<void> {
    await this.#session.release();
  }
}

type Runtime = typeof import("onnxruntime-node");

async function create(
  name: string,
  { threads }: SessionOptions,
  make: (ort: Runtime, options: InferenceSession.SessionOptions) => Promise<InferenceSession>,
): Promise<{ readonly session: InferenceSession; readonly ort: Runtime }> {
  const options: InferenceSession.SessionOptions = {
    executionProviders: ["cpu"],
    graphOptimizationLevel: "all",
    // Shapes differ from run to run, so that a memory pattern would be of no use.
    enableMemPattern: false,
    // An arena keeps the memory of the largest run, and makes no run faster.
    enableCpuMemArena: false,
    logSeverityLevel: 3,
    extra: {
      session: {
        // Threads that spin while a graph runs make it a fifth faster; they stop when it is done.
        force_spinning_stop: "1",
      },
      // A transposed product is there for its order of sums, see `steadyGemm` of the refactoring.
      optimization: { disable_specified_optimizers: "GemmTransposeFusion" },
    },
    ...(threads === undefined ? {} : { intraOpNumThreads: threads, interOpNumThreads: 1 }),
  };
  const ort = await loadRuntime();
  try {
    return { session: await make(ort, options), ort };
  } catch (cause) {
    throw new ReadMeError("ERR_RUNTIME", `The inference runtime refused the graph ${name}: ${message(cause)}`, {
      cause,
    });
  }
}

/** Loads the runtime when the first graph is opened: some of its versions conflict in one process. */
async function loadRuntime(): Promise<Runtime> {
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    const why = explainLoadFailure(message(cause), runtimeHost());
    throw new ReadMeError("ERR_RUNTIME", `The inference runtime cannot be loaded: ${why}`, { cause });
  }
}

function message(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
