// Messages between the parent and its workers, and stored cases.

import type { Kind } from "./bases.ts";
import type { Content, ModelCase } from "./model-case.ts";

export interface StoredFile {
  readonly name: string;
  /** Bytes as base64, or what stands in the place of the file. */
  readonly content: string | { readonly as: Content };
}

/** A case that can be opened again, whatever the generator has become. */
export type Replayed = Pick<ModelCase, "kind" | "way" | "use"> & { readonly files: readonly StoredFile[] };

export type ToWorker =
  | { readonly type: "run"; readonly seed: number; readonly from: number; readonly count: number }
  /** Large files come as copies, since a message would fill the worker's memory. */
  | {
      readonly type: "replay";
      readonly case: Pick<ModelCase, "kind" | "way" | "use">;
      readonly files: readonly NamedContent[];
    };

export type NamedContent = readonly [name: string, content: Exclude<Content, Uint8Array>];

/** The result of a case. */
export interface CaseReport {
  readonly index: number;
  readonly kind: Kind;
  readonly way: string;
  readonly outcome: string;
  readonly ms: number;
  readonly problems: readonly string[];
}

export type FromWorker =
  | { readonly type: "ready" }
  | { readonly type: "begin"; readonly index: number }
  | ({ readonly type: "case" } & CaseReport)
  | { readonly type: "end" };

export function fileOf([name, content]: readonly [string, Content]): StoredFile {
  return { name, content: content instanceof Uint8Array ? Buffer.from(content).toString("base64") : { as: content } };
}
