import { describeValue } from "@readme-moe/core";

/** A model of the hub at one revision. */
export interface ModelId {
  /** `name` or `organisation/name`. */
  readonly name: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

const DEFAULT_REVISION = "main";
const MAX_NAME_LENGTH = 96;
const COMMIT = /^[0-9a-f]{40}$/;

/**
 * @param id - `organisation/name`, or with its revision `organisation/name@revision`
 * @throws {TypeError} when either is not what the hub's rules for names allow, or both give a revision
 */
export function parseModelId(id: unknown, revision: unknown): ModelId {
  const [name, ownRevision] = typeof id === "string" ? splitAt(id) : [];
  if (name === undefined || !isName(name)) {
    throw new TypeError(`Expected \`id\` to name a model as "organisation/name", got ${describeValue(id)}`);
  }
  if (ownRevision !== undefined && revision !== undefined) {
    throw new TypeError(`Expected \`revision\` or a revision in \`id\`, got both: ${describeValue(id)}`);
  }
  const chosen = ownRevision ?? revision ?? DEFAULT_REVISION;
  if (typeof chosen === "string" && isRevision(chosen)) return { name, revision: chosen };
  const option = ownRevision === undefined ? "revision" : "id";
  throw new TypeError(`Expected \`${option}\` to name a branch, a tag or a commit, got ${describeValue(chosen)}`);
}

/** Whether the revision can never move. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

function splitAt(id: string): readonly [string, string?] {
  const at = id.indexOf("@");
  return at < 0 ? [id] : [id.slice(0, at), id.slice(at + 1)];
}

// As `validate_repo_id` of huggingface_hub: the name becomes a folder's name, with `--` for the slash.
function isName(name: string): boolean {
  const parts = name.split("/");
  if (parts.length > 2 || name.length > MAX_NAME_LENGTH || /--|\.\.|\.git$/.test(name)) return false;
  return parts.every((part) => /^\w(?:[\w.-]*\w)?$/.test(part));
}

// A part of git's rules for names: the revision becomes a path below `refs`.
function isRevision(revision: string): boolean {
  return /^[\w.+-]+(?:\/[\w.+-]+)*$/.test(revision) && !/(?:^|\/)\.|\.\.|\.lock(?:$|\/)/.test(revision);
}
