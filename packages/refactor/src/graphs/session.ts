// Runs graphs. The only file that touches onnxruntime-node; it explains why that cannot be loaded.

import { messageOf, ReadMeError } from "@readme-moe/core";
import type { InferenceSession, Tensor } from "onnxruntime-node";
import { fillData, encodeGraph } from "./encode.ts";
import type { ElementType, Graph } from "./graph-builder.ts";

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

  /** Lists the inputs' names. */
  get inputs(): readonly string[] {
    return [...this.#types.keys()];
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
      throw new ReadMeError("ERR_RUNTIME", `The inference runtime failed: ${messageOf(cause)}`, { cause });
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
      // A transposed product is there for its order of sums, see `deterministicGemm` of the refactoring.
      optimization: { disable_specified_optimizers: "GemmTransposeFusion" },
    },
    ...(threads === undefined ? {} : { intraOpNumThreads: threads, interOpNumThreads: 1 }),
  };
  const ort = await loadRuntime();
  try {
    return { session: await make(ort, options), ort };
  } catch (cause) {
    throw new ReadMeError("ERR_RUNTIME", `The inference runtime refused the graph ${name}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** Loads the runtime when the first graph is opened: some of its versions conflict in one process. */
async function loadRuntime(): Promise<Runtime> {
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    const why = explainLoadFailure(messageOf(cause), runtimeHost());
    throw new ReadMeError("ERR_RUNTIME", `The inference runtime cannot be loaded: ${why}`, { cause });
  }
}

/** Platforms and architectures that the runtime's package has builds for, named as in Node. */
const BUILDS: Readonly<Record<string, readonly string[]>> = {
  linux: ["x64", "arm64"],
  darwin: ["arm64"],
  win32: ["x64", "arm64"],
};
const BUILT_FOR = "Linux with glibc (x64, arm64), macOS on Apple silicon, and Windows (x64, arm64)";
/** Least version of glibc, by the symbols that its libraries for Linux need. */
const LEAST_GLIBC = "2.28";

/** Platform of a process. */
interface RuntimeHost {
  readonly platform: string;
  readonly arch: string;
  /** Version of glibc on Linux; `undefined` on systems with another C library. */
  readonly glibc: string | undefined;
}

/** Describes this process's platform. */
export function runtimeHost(): RuntimeHost {
  const { platform, arch } = process;
  return { platform, arch, glibc: platform === "linux" ? glibcVersion() : undefined };
}

/**
 * Explains a failure in one sentence.
 *
 * @param message - of the error that loading failed with
 */
export function explainLoadFailure(message: string, { platform, arch, glibc }: RuntimeHost): string {
  if (!(BUILDS[platform]?.includes(arch) ?? false)) {
    return `onnxruntime-node has no build for ${platform} ${arch}; it has for ${BUILT_FOR}`;
  }
  if (platform === "linux" && glibc === undefined) {
    return (
      "onnxruntime-node is built for Linux with glibc, and this system has another C library, such as Alpine's musl; " +
      "take an image with glibc, such as node:20-slim"
    );
  }
  if (/version `GLIBC(?:XX)?_[\d.]+' not found/.test(message)) {
    return `onnxruntime-node needs glibc ${LEAST_GLIBC} or newer, and this system has ${glibc}; take a newer system (${message})`;
  }
  if (/version `VERS_/.test(message)) {
    return "another version of onnxruntime-node is in this process; refactor, tune and export in a process of their own";
  }
  if (/onnxruntime_binding\.node/.test(message) && /Cannot find module/.test(message)) {
    return `onnxruntime-node's native part is not where its package has it; bundlers are to leave that package outside (${message})`;
  }
  if (platform === "win32" && /specified module could not be found/i.test(message)) {
    return `onnxruntime-node needs the Microsoft Visual C++ Redistributable, which may be missing here (${message})`;
  }
  if (platform === "darwin" && /built for newer/i.test(message)) {
    return `onnxruntime-node needs macOS 14 or newer (${message})`;
  }
  return message;
}

function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
  return header?.glibcVersionRuntime;
}
