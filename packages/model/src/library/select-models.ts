import { resolve } from "node:path";
import { nearestName } from "@readme-moe/core";
import { type ModelName, parseModelName } from "../names/parse-name.ts";
import type { CachedModel } from "./cached-model.ts";

/** The models that a name stands for among those on this machine. */
export interface Selection {
  readonly models: readonly CachedModel[];
  /** A similar name of a model that is here, when there is none of this name. */
  readonly near: string | undefined;
}

/**
 * Selects models by a name that commands take. A short name or a repository without more selects all its weights and
 * revisions. Pure: whether a path exists is passed in.
 */
export function selectModels(
  models: readonly CachedModel[],
  name: string,
  exists: (path: string) => boolean,
): Selection {
  const parsed = parseModelName(name, exists);
  const found = models.filter((model) => model.name === name || isMeant(model, parsed));
  if (found.length > 0) return { models: found, near: undefined };
  return { models: [], near: nearestName(name, [...new Set(models.map((model) => model.name))]) };
}

function isMeant(model: CachedModel, name: ModelName): boolean {
  switch (name.kind) {
    case "path":
      return resolve(name.path) === model.path;
    case "known": {
      const sources = name.source === undefined ? name.model.sources : [name.source];
      const isFromHub = sources.some(({ repository, file }) => isOf(model, repository) && sameFile(model, file));
      return isFromHub || (model.place === "package" && name.source === undefined && model.name === name.model.name);
    }
    case "hub": {
      const { repository, revision, file, quantization } = name;
      const isFile = file === undefined || sameFile(model, file);
      const isType =
        quantization === undefined || model.file?.toLowerCase().includes(quantization.toLowerCase()) === true;
      return isOf(model, repository) && isRevision(model, revision) && isFile && isType;
    }
    case "unknown":
      return false;
    default:
      throw new TypeError(`Unknown kind of name: ${String(name satisfies never)}`);
  }
}

function isOf(model: CachedModel, repository: string): boolean {
  return model.repository?.toLowerCase() === repository.toLowerCase();
}

/** Compares files; an interrupted download is of any file. */
function sameFile(model: CachedModel, file: string | undefined): boolean {
  return model.file === file || model.commit === undefined;
}

function isRevision({ revisions, commit }: CachedModel, revision: string | undefined): boolean {
  if (revision === undefined || revisions.includes(revision)) return true;
  return /^[0-9a-f]{7,40}$/.test(revision) && commit?.startsWith(revision) === true;
}
