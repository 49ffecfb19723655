// JSON as a tree that also holds repeated keys and numbers as written, which JavaScript values cannot.

export type Tree = Scalar | List | Members;

/** JSON text, or invalid text in its place. */
interface Scalar {
  readonly kind: "scalar";
  text: string;
}

export interface List {
  readonly kind: "list";
  items: Tree[];
}

export interface Members {
  readonly kind: "object";
  /** Entries in order; keys may be repeated. */
  entries: [key: string, value: Tree][];
}

/** Place in a tree whose content can be replaced. */
export interface Place {
  readonly parent: List | Members;
  readonly index: number;
}

export function treeOf(value: unknown): Tree {
  if (Array.isArray(value)) return { kind: "list", items: value.map(treeOf) };
  if (typeof value !== "object" || value === null) return { kind: "scalar", text: JSON.stringify(value) };
  const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return { kind: "object", entries: entries.map(([key, inner]) => [key, treeOf(inner)]) };
}

export function textOf(tree: Tree): string {
  if (tree.kind === "scalar") return tree.text;
  if (tree.kind === "list") return `[${tree.items.map(textOf).join(",")}]`;
  return `{${tree.entries.map(([key, value]) => `${JSON.stringify(key)}:${textOf(value)}`).join(",")}}`;
}

export function copyOf(tree: Tree): Tree {
  if (tree.kind === "scalar") return { ...tree };
  if (tree.kind === "list") return { kind: "list", items: tree.items.map(copyOf) };
  return { kind: "object", entries: tree.entries.map(([key, value]) => [key, copyOf(value)]) };
}

/** Lists all lists and objects, the outermost first. */
export function containersOf(tree: Tree): readonly (List | Members)[] {
  const found: (List | Members)[] = [];
  const open: Tree[] = [tree];
  for (let next = open.pop(); next; next = open.pop()) {
    if (next.kind === "scalar") continue;
    found.push(next);
    open.push(...(next.kind === "list" ? next.items : next.entries.map(([, value]) => value)));
  }
  return found;
}

export function placesOf(tree: Tree): readonly Place[] {
  return containersOf(tree).flatMap((parent) =>
    (parent.kind === "list" ? parent.items : parent.entries).map((_: unknown, index: number) => ({ parent, index })),
  );
}

export function contentOf({ parent, index }: Place): Tree {
  const content = parent.kind === "list" ? parent.items[index] : parent.entries[index]?.[1];
  if (content === undefined) throw new RangeError(`Expected a place below ${index}`);
  return content;
}

export function setContent({ parent, index }: Place, content: Tree): void {
  if (parent.kind === "list") parent.items[index] = content;
  else parent.entries[index] = [parent.entries[index]?.[0] ?? "", content];
}
