// Describes the machine of a run, without which figures mean nothing.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, loadavg, release, totalmem, type } from "node:os";
import { dirname, join } from "node:path";

export interface Machine {
  readonly cpu: string;
  /** Supported instructions among those that kernels choose by. */
  readonly flags: readonly string[];
  readonly cores: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly onnxRuntime: string | undefined;
  /** Mean number of runnable processes in the minute before. */
  readonly load: number;
  /** Versions of the peers that take part. */
  readonly peers: Readonly<Record<string, string>>;
}

const FLAGS = [
  "avx2",
  "fma",
  "avx512f",
  "avx512_vnni",
  "avx_vnni",
  "avx512_bf16",
  "amx_int8",
  "asimddp",
  "i8mm",
  "sve",
];

export function describeMachine(peers: Readonly<Record<string, string>> = {}): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    flags: cpuFlags().filter((flag) => FLAGS.includes(flag)),
    cores: cpus().length,
    memoryBytes: totalmem(),
    kernel: `${type()} ${release()}`,
    node: process.version,
    onnxRuntime: runtimeVersion(),
    load: loadavg()[0] ?? 0,
    peers,
  };
}

/** Formats a machine as a list. */
export function machineMarkdown(machine: Machine): string {
  const { cpu, flags, cores, memoryBytes, kernel, node, onnxRuntime, load, peers } = machine;
  const busy = load > 0.5 ? ", so the machine was not idle: the figures are not reliable" : "";
  return [
    `- ${cpu}, ${cores} cores${flags.length > 0 ? `, ${flags.join(" ")}` : ""}, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB`,
    `- ${kernel}, Node ${node}, ONNX Runtime ${onnxRuntime ?? "unknown"}`,
    ...Object.entries(peers).map(([name, version]) => `- ${name} ${version}`),
    `- load when it began: ${load.toFixed(2)}${busy}`,
  ].join("\n");
}

/** Reads the CPU's flags on Linux; returns none elsewhere. */
function cpuFlags(): readonly string[] {
  try {
    return /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  } catch {
    return [];
  }
}

/** Returns the version of the inference runtime that `@readme-moe/refactor` pins. */
function runtimeVersion(): string | undefined {
  try {
    const refactor = createRequire(import.meta.url).resolve("@readme-moe/refactor");
    const { dependencies = {} } = JSON.parse(readFileSync(join(dirname(refactor), "..", "package.json"), "utf8")) as {
      readonly dependencies?: Readonly<Record<string, string>>;
    };
    return Object.entries(dependencies).find(([name]) => name.startsWith("onnxruntime"))?.[1];
  } catch {
    return undefined;
  }
}
