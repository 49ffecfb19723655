// Functions of callers, such as a scheduler. The model runs in another thread or process, and a function cannot be sent
// there, so the name of its module is sent instead.

import { isAbsolute } from "node:path";
import { pathToFileURL } from "node:url";
import { describeValue, messageOf, ReadMeError } from "@readme-moe/core";

/** A function that a module exports. */
export interface FunctionModule {
  /** An absolute path, a `file:` URL, or the name of a package that the engine's own code can import. */
  readonly module: string | URL;
  /** @default "default" */
  readonly export?: string | undefined;
}

/** A function module as it is sent. */
export interface ResolvedFunctionModule {
  readonly module: string;
  readonly export: string;
}

/** Checks a function module. @returns `undefined` if `value` is no object @throws {TypeError} naming the option */
export function functionModuleOption(name: string, value: unknown): ResolvedFunctionModule | undefined {
  if (typeof value === "function") {
    throw new TypeError(
      `Expected \`${name}\` to be a name or \`{ module, export }\`, got a function, which cannot be sent to where the model runs`,
    );
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { module, export: exported = "default" } = value as Partial<FunctionModule>;
  if (!(module instanceof URL) && (typeof module !== "string" || module === "")) {
    throw new TypeError(`Expected \`${name}.module\` to be a path, URL or package, got ${describeValue(module)}`);
  }
  if (typeof exported !== "string") {
    throw new TypeError(`Expected \`${name}.export\` to be a string, got ${describeValue(exported)}`);
  }
  return { module: specifierOf(module), export: exported };
}

/**
 * Imports the function.
 * @throws {ReadMeError} `ERR_MODULE` if the module cannot be imported, or does not export a function by that name
 */
export async function importFunction<Decision>({ module, export: name }: ResolvedFunctionModule): Promise<Decision> {
  let exported: unknown;
  try {
    exported = ((await import(module)) as Readonly<Record<string, unknown>>)[name];
  } catch (cause) {
    const reason = messageOf(cause);
    throw new ReadMeError("ERR_MODULE", `${module} cannot be imported: ${reason}`, { cause });
  }
  if (typeof exported === "function") return exported as Decision;
  throw new ReadMeError(
    "ERR_MODULE",
    `${module}: expected \`${name}\` to be a function, got ${describeValue(exported)}`,
  );
}

function specifierOf(module: string | URL): string {
  if (module instanceof URL) return module.href;
  return isAbsolute(module) ? pathToFileURL(module).href : module;
}
