// Names of models that include an expert: `<model>:<expert>`.

/** Expert "none" of a model with low-rank experts: the model itself, without any change. */
export const NO_EXPERT = "none";

/** A model's name and an expert's. */
export interface ExpertId {
  readonly model: string;
  readonly expert: string;
}

export function joinExpertId({ model, expert }: ExpertId): string {
  return `${model}:${expert}`;
}

/** Splits a name at its last colon, since names of models may contain colons. @returns `undefined` if it has none */
export function splitExpertId(id: string): ExpertId | undefined {
  const colon = id.lastIndexOf(":");
  if (colon <= 0 || colon === id.length - 1) return undefined;
  return { model: id.slice(0, colon), expert: id.slice(colon + 1) };
}

/** Names that requests can use for models. */
export interface ModelNames {
  /** Other names of models, and of experts as `<model>:<expert>`. */
  readonly aliases: ReadonlyMap<string, string>;
  readonly isServed: (name: string) => boolean;
}

/** A model, or one of its experts. */
export interface NamedModel {
  readonly model: string;
  readonly expert: string | undefined;
}

/**
 * Finds what a client's name stands for: a model or its alias, or either with an expert. Whole names go first.
 *
 * @returns `undefined` where no model has that name; the expert need not exist
 */
export function namedModel(id: string, { aliases, isServed }: ModelNames): NamedModel | undefined {
  const name = aliases.get(id) ?? id;
  if (isServed(name)) return { model: name, expert: undefined };
  const split = splitExpertId(name);
  if (!split) return undefined;
  const model = aliases.get(split.model) ?? split.model;
  return isServed(model) ? { model, expert: split.expert } : undefined;
}

/** Lists all names of an expert: its model's name with the expert's first, then those with aliases. */
export function idsOfExpert({ model, expert }: ExpertId, names: ModelNames): readonly string[] {
  const ofModels = [model, ...aliasesOf(model, names)].map((name) => joinExpertId({ model: name, expert }));
  return [...new Set([...ofModels, ...names.aliases.keys()])].filter((id) => {
    const found = namedModel(id, names);
    return found?.model === model && found.expert === expert;
  });
}

export function aliasesOf(id: string, { aliases }: Pick<ModelNames, "aliases">): readonly string[] {
  return [...aliases].filter(([, of]) => of === id).map(([alias]) => alias);
}

/** Names that stand for something else wherever an expert is named. */
const RESERVED: ReadonlySet<string> = new Set([NO_EXPERT, "router"]);

/** Whether a new expert may have this name. */
export function isExpertName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name) && !RESERVED.has(name);
}
