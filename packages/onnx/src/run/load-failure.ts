// Explains why the inference runtime's native part cannot be loaded, and what helps.

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
export interface RuntimeHost {
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
