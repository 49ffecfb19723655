// Mutates a body so that it stays JSON, or almost JSON.

import { HOSTILE_SCHEMAS } from "../../test/support/hostile-schemas.ts";
import type { Chance } from "./chance.ts";
import { KEYS, KEYWORDS, LONG, SCALARS, VARIABLES } from "./json-parts.ts";
import {
  containersOf,
  contentOf,
  copyOf,
  placesOf,
  setContent,
  textOf,
  treeOf,
  type Place,
  type Tree,
} from "./json-tree.ts";

type Mutation = (root: Tree, chance: Chance) => void;

const scalar = (text: string): Tree => ({ kind: "scalar", text });

/** Draws a text; most are short, so that many can be tried. */
function longText(chance: Chance): string {
  const length = chance.weighted([
    [40, 100],
    [20, 2000],
    [5, 20_000],
    [1, 300_000],
  ] as const);
  return `"${chance.pick(LONG).repeat(chance.between(1, length))}"`;
}

function nestedText(chance: Chance): string {
  const depth = chance.pick([3, 20, 62, 63, 64, 65, 66, 1000, 20_000]);
  const [open, close] = chance.pick([
    ["[", "]"],
    ['{"a":', "}"],
  ] as const);
  return open.repeat(depth) + chance.pick(["", "0", "null"]).padEnd(open === "[" ? 0 : 1, "0") + close.repeat(depth);
}

const MAX_REPEATED_CHARS = 1_000_000;

function repeated(chance: Chance, item: Tree): Tree {
  const count = chance.weighted([
    [20, 5],
    [10, 70],
    [10, 130],
    [3, 1100],
    [1, 9000],
    [0.2, 70_000],
  ] as const);
  // The repeated value may already be large.
  const most = Math.ceil(MAX_REPEATED_CHARS / (textOf(item).length + 1));
  return { kind: "list", items: Array.from({ length: Math.min(count, most) }, () => copyOf(item)) };
}

const at =
  (change: (content: Tree, chance: Chance) => Tree): Mutation =>
  (root, chance) => {
    const place = anyPlace(root, chance);
    if (place) setContent(place, change(contentOf(place), chance));
  };

function anyPlace(root: Tree, chance: Chance): Place | undefined {
  const places = placesOf(root);
  return places.length === 0 ? undefined : chance.pick(places);
}

/** Adds an entry to an object. */
const entry =
  (entries: (chance: Chance) => readonly [string, Tree]): Mutation =>
  (root, chance) => {
    const objects = containersOf(root).filter((one) => one.kind === "object");
    if (objects.length === 0) return;
    const { entries: list } = chance.pick(objects);
    list.splice(chance.below(list.length + 1), 0, [...entries(chance)]);
  };

function changedNumber(content: Tree, chance: Chance): Tree {
  if (content.kind !== "scalar" || !/^-?\d/.test(content.text)) return scalar(chance.pick(SCALARS));
  return scalar(
    chance.pick([
      `-${content.text}`,
      `${content.text}.5`,
      `${content.text}0000`,
      `${content.text}e5`,
      `"${content.text}"`,
    ]),
  );
}

function changedText(content: Tree, chance: Chance): Tree {
  if (content.kind !== "scalar" || !content.text.startsWith('"')) return scalar(longText(chance));
  const inner = content.text.slice(1, -1);
  const more = chance.pick([
    " ",
    "\\ud800",
    "\\u0000",
    "🙂",
    "\\",
    "\u0007",
    "\\/",
    "<|endoftext|>",
    "{{ 7*7 }}",
    "{% raw %}",
  ]);
  return scalar(`"${chance.pick([inner + more, more + inner, inner.toUpperCase(), inner.slice(1), inner.repeat(9)])}"`);
}

const removeOrMove: Mutation = (root, chance) => {
  const place = anyPlace(root, chance);
  if (!place) return;
  const list: unknown[] = place.parent.kind === "list" ? place.parent.items : place.parent.entries;
  const [taken] = list.splice(place.index, 1);
  if (chance.happens(0.4)) list.splice(chance.below(list.length + 1), 0, taken);
};

const doubleKey: Mutation = (root, chance) => {
  const place = anyPlace(root, chance);
  if (place?.parent.kind !== "object") return;
  const [key, value] = place.parent.entries[place.index] as [string, Tree];
  place.parent.entries.push([key, chance.happens(0.5) ? copyOf(value) : scalar(chance.pick(SCALARS))]);
};

const renameKey: Mutation = (root, chance) => {
  const place = anyPlace(root, chance);
  if (place?.parent.kind !== "object") return;
  const found = place.parent.entries[place.index] as [string, Tree];
  found[0] = chance.pick([found[0].toUpperCase(), `${found[0]} `, found[0].slice(1), chance.pick(KEYS)]);
};

const swap: Mutation = (root, chance) => {
  const [one, other] = [anyPlace(root, chance), anyPlace(root, chance)];
  if (!one || !other) return;
  const [a, b] = [copyOf(contentOf(one)), copyOf(contentOf(other))];
  setContent(one, b);
  // The first place may have contained the second.
  if (placesOf(root).some(({ parent, index }) => parent === other.parent && index === other.index))
    setContent(other, a);
};

/** Lists all values except the one with shared parts, whose text would triple with each level. */
const SCHEMAS = Object.entries(HOSTILE_SCHEMAS).flatMap(([name, make]) =>
  name.startsWith("parts shared") ? [] : [make],
);

const hostileSchema = (chance: Chance): readonly [string, Tree] => {
  const make = chance.pick(SCHEMAS);
  const wrong = make(
    chance.weighted([
      [10, 3],
      [5, 12],
      [1, 60],
    ] as const),
    () => chance.number(0, 1),
  );
  return ["response_format", treeOf({ type: "json_schema", json_schema: { name: "a", schema: wrong } })];
};

/** Adds variables of the chat template with any name and value. */
const templateVariables: Mutation = (root, chance) => {
  if (root.kind !== "object") return;
  const value = (): Tree =>
    chance.pick([
      scalar(chance.pick(SCALARS)),
      treeOf(chance.pick(KEYWORDS)[1]),
      { kind: "list", items: root.entries.map(([, inner]) => copyOf(inner)) },
    ]);
  const entries = chance.list(0, 5, (): [string, Tree] => [
    chance.pick(chance.happens(0.7) ? VARIABLES : KEYS),
    value(),
  ]);
  root.entries.push(["chat_template_kwargs", { kind: "object", entries }]);
};

const MUTATIONS: readonly (readonly [weight: number, mutation: Mutation])[] = [
  [10, at((_, chance) => scalar(chance.pick(SCALARS)))],
  [4, at(changedNumber)],
  [4, at(changedText)],
  [2, at((_, chance) => scalar(longText(chance)))],
  [1, at((_, chance) => scalar(nestedText(chance)))],
  [2, at((content) => ({ kind: "list", items: [content] }))],
  [1, at((content, chance) => ({ kind: "object", entries: [[chance.pick(KEYS), content]] }))],
  [2, at((content, chance) => repeated(chance, content))],
  [5, removeOrMove],
  [3, doubleKey],
  [3, renameKey],
  [3, swap],
  [4, entry((chance) => [chance.pick(KEYS), scalar(chance.pick(SCALARS))])],
  [4, entry((chance) => keyword(chance))],
  [0.5, entry((chance) => [chance.pick(LONG).repeat(chance.between(1, 5000)), scalar("1")])],
  [1, entry(hostileSchema)],
  [2, templateVariables],
];

function keyword(chance: Chance): readonly [string, Tree] {
  const [key, value] = chance.pick(KEYWORDS);
  return [key, treeOf(value)];
}

/** Mutates a tree one to three times, or replaces all of it. */
export function mutated(tree: Tree, chance: Chance): Tree {
  if (chance.happens(0.02)) return scalar(chance.pick([...SCALARS, nestedText(chance), ""]));
  const root = copyOf(tree);
  const count = chance.weighted([
    [6, 1],
    [3, 2],
    [1, 3],
  ] as const);
  for (let step = 0; step < count; step++) chance.weighted(MUTATIONS)(root, chance);
  return root;
}
