// Options of experts that clients name and operators load.

import { describeValue, rejectUnknownKeys } from "@readme-moe/core";
import { KeyRing, type Keys } from "../guard.ts";
import { ExpertFolder } from "./expert-folder.ts";

/** A client that names an expert. */
export interface ExpertUse {
  /** Name of the client's API key, on servers that ask for keys. */
  readonly key: string | undefined;
  /** Name of the served model. */
  readonly model: string;
  readonly expert: string;
}

/** Options of the low-rank experts of served models. */
export interface ExpertsOptions {
  /**
   * Decides whether a client may name an expert. For other clients the expert does not exist. The router chooses among
   * all experts in any case; `onRequest` can give every request an expert. @default all clients may name all experts
   */
  readonly permit?: ((use: ExpertUse) => boolean) | undefined;
  /**
   * Keys of operators, who may load and unload experts while the server runs. They are no keys of clients. Needs
   * `folder`. @default nobody: the routes do not exist
   */
  readonly operatorKeys?: Keys | undefined;
  /** Folder whose subfolders operators may load as experts. */
  readonly folder?: string | undefined;
}

/** Operators' keys, and the folder that they load from. */
interface Operators {
  readonly keys: Keys;
  readonly folder: ExpertFolder;
}

export interface ResolvedExpertsOptions {
  readonly permit: (use: ExpertUse) => boolean;
  /** Whether experts may be hidden from clients. */
  readonly arePrivate: boolean;
  /** `undefined` where experts cannot be loaded. */
  readonly operators: Operators | undefined;
}

const NAMES = ["permit", "operatorKeys", "folder"] as const satisfies readonly (keyof ExpertsOptions)[];

/**
 * @param clientKeys - keys of clients, which operators' keys must differ from
 * @throws {TypeError} naming the option, the expectation and the value
 */
export function resolveExpertsOptions(options: ExpertsOptions = {}, clientKeys?: Keys): ResolvedExpertsOptions {
  rejectUnknownKeys("`experts`", options, NAMES);
  const { operatorKeys, folder } = options;
  const permit = checkedPermit(options.permit);
  const arePrivate = options.permit !== undefined;
  if (operatorKeys === undefined && folder === undefined) return { permit, arePrivate, operators: undefined };
  if (operatorKeys === undefined || folder === undefined) {
    throw new TypeError("Expected `experts.operatorKeys` and `experts.folder` together");
  }
  const ring = new KeyRing(operatorKeys, undefined, "experts.operatorKeys");
  if (Object.values(clientKeys ?? {}).some((key) => ring.nameOf(key) !== undefined)) {
    throw new TypeError("Expected `experts.operatorKeys` to differ from `keys`");
  }
  return { permit, arePrivate, operators: { keys: operatorKeys, folder: new ExpertFolder(folder) } };
}

function checkedPermit(permit: ExpertsOptions["permit"]): ResolvedExpertsOptions["permit"] {
  if (permit === undefined) return () => true;
  if (typeof permit !== "function") throw new TypeError("Expected `experts.permit` to be a function");
  return (use) => {
    const answer: unknown = permit(use);
    // A promise would count as true.
    if (typeof answer === "boolean") return answer;
    throw new TypeError(`Expected \`experts.permit\` to give true or false, got ${describeValue(answer)}`);
  };
}
