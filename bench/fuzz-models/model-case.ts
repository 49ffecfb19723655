// Cases: a small valid model in which one or two files are damaged or hostile. Seed and index determine a case.

import { safetensorsBytes } from "../../test/support/safetensors-bytes.ts";
import { Chance } from "../fuzz/chance.ts";
import { mutated } from "../fuzz/json-mutations.ts";
import { textOf, treeOf } from "../fuzz/json-tree.ts";
import { type Files, type Kind, KINDS } from "./bases.ts";
import { sentencePieceJson } from "./base-texts.ts";
import { damagedBytes } from "./byte-damage.ts";
import { heavyGguf, heavyJson, heavySafetensors, hostileFields } from "./file-attacks.ts";
import { damagedGguf } from "./gguf-parts.ts";
import { damagedOnnx } from "./proto-parts.ts";
import { hostileAdapter, hostileTemplate, hostileTokenizer } from "./text-attacks.ts";

/** Content of a place where a file may be: bytes, those of another file, nothing, a folder, or a link to the path. */
export type Content = Uint8Array | { readonly copyOf: string } | "nothing" | "folder" | { readonly link: string };

export interface ModelCase {
  readonly seed: number;
  readonly index: number;
  readonly kind: Kind;
  /** Name of the way in which the files are wrong; `valid` has to be opened. */
  readonly way: string;
  /** The changed files by their names. */
  readonly files: Map<string, Content>;
  /** How thoroughly the model is used if it opens. */
  readonly use: "described" | "verified" | "packed" | "served";
}

const WEIGHTS: Readonly<Record<Kind, number>> = {
  dense: 12,
  sharded: 4,
  mixture: 6,
  convolution: 5,
  layers: 5,
  delta: 5,
  latent: 5,
  space: 5,
  "hybrid-gguf": 5,
  "read-me": 8,
  pooling: 4,
  gguf: 12,
  "gguf-text": 12,
  onnx: 2,
  tokenizer: 14,
  template: 8,
  adapter: 10,
  set: 5,
  cache: 2,
};

/** Makes a case. @param bases - the valid files of each kind */
export function caseOf(seed: number, index: number, bases: ReadonlyMap<Kind, Files>): ModelCase {
  const chance = Chance.ofCase(seed, index);
  const kind = chance.weighted(KINDS.map((one) => [WEIGHTS[one], one] as const));
  const base = bases.get(kind) ?? new Map<string, Buffer>();
  const { way, files } = changesOf(kind, base, chance);
  const use = chance.weighted([
    [80, "described"],
    [15, "verified"],
    [4, "packed"],
    [1, "served"],
  ] as const);
  return { seed, index, kind, way, files, use };
}

type Changes = Pick<ModelCase, "way" | "files">;

function changesOf(kind: Kind, base: Files, chance: Chance): Changes {
  if (chance.happens(0.01)) return { way: "valid", files: new Map() };
  // The worker damages the cache itself.
  if (kind === "cache") return { way: "cache", files: new Map() };
  const names = [...base.keys()].filter((name) => isDamaged(kind, name));
  const name = chance.pick(names);
  if (chance.happens(0.01)) return { way: "no file", files: new Map([[name, notAFile(chance)]]) };
  const heavy = chance.happens(0.0015) ? heavyOf(name, chance) : undefined;
  if (heavy) return { way: "heavy", files: new Map([[name, heavy]]) };
  const [way, bytes] = changed(kind, name, base.get(name) ?? Buffer.alloc(0), chance);
  const files = new Map<string, Content>([[name, bytes]]);
  const second = chance.happens(0.05) ? chance.pick(names) : name;
  if (second !== name) files.set(second, changed(kind, second, base.get(second) ?? Buffer.alloc(0), chance)[1]);
  return { way, files };
}

/** Chooses the files that a kind is about; texts of models have kinds of their own. */
function isDamaged(kind: Kind, name: string): boolean {
  if (kind === "tokenizer") return /tokenizer|special_tokens/.test(name);
  if (kind === "template") return name === "chat_template.jinja";
  if (kind === "set") return /^(read-me-experts|router|experts\/one)/.test(name);
  return kind === "pooling" || !/tokenizer|template/.test(name);
}

function notAFile(chance: Chance): Content {
  return chance.pick([
    "nothing",
    "folder",
    Buffer.alloc(0),
    { link: "/dev/zero" },
    { link: "." },
    { link: "config.json" },
  ]);
}

function heavyOf(name: string, chance: Chance): Uint8Array | undefined {
  if (name.endsWith(".gguf")) return heavyGguf(chance);
  if (name.endsWith(".safetensors")) return heavySafetensors(chance);
  return name.endsWith(".json") ? Buffer.from(heavyJson(chance)) : undefined;
}

function changed(kind: Kind, name: string, bytes: Buffer, chance: Chance): readonly [way: string, bytes: Uint8Array] {
  if (chance.happens(0.15)) return ["bytes", damagedBytes(bytes, chance)];
  if (name.endsWith(".jinja")) return changedTemplate(bytes, chance);
  if (name.endsWith(".gguf")) return ["parts", damagedGguf(bytes, chance, kind === "gguf-text")];
  if (name.endsWith(".onnx")) return ["parts", damagedOnnx(bytes, chance)];
  if (name.endsWith(".safetensors")) return ["header", changedHeader(bytes, chance)];
  if (!name.endsWith(".json")) return ["bytes", damagedBytes(bytes, chance)];
  const isTokenizer = name === "tokenizer.json";
  if (isTokenizer && chance.happens(0.1)) return ["attack", Buffer.from(hostileTokenizer(chance))];
  const json = isTokenizer && chance.happens(0.3) ? sentencePieceJson() : jsonOf(bytes);
  if (name === "adapter_config.json" && chance.happens(0.12))
    return ["attack", Buffer.from(JSON.stringify({ ...json, ...hostileAdapter(chance) }))];
  if (!isTokenizer && chance.happens(0.5))
    return ["fields", Buffer.from(JSON.stringify(hostileFields({ ...json }, chance)))];
  return ["json", Buffer.from(textOf(mutated(treeOf(json), chance)))];
}

function changedTemplate(bytes: Buffer, chance: Chance): readonly [string, Uint8Array] {
  if (chance.happens(0.1)) return ["attack", Buffer.from(hostileTemplate(chance))];
  // Statements of the valid template in another order, so that much of it is still Jinja.
  const parts = bytes.toString().split(/(?=\{[{%])/);
  for (let count = chance.pick([1, 2, 4]); count > 0; count--) {
    const at = chance.below(parts.length);
    const [taken = ""] = parts.splice(at, chance.pick([0, 1, 1]));
    parts.splice(chance.below(parts.length + 1), 0, ...Array<string>(chance.pick([0, 1, 1, 3])).fill(taken));
    const word = chance.pick(["messages", "range(9)", "none", "loop", "bos_token|list", "{}", "1/0", "x.y.z", "-1"]);
    const other = chance.below(parts.length);
    if (chance.happens(0.5)) parts[other] = (parts[other] ?? "").replace(/\b(?:message|content|tool|call|ns)\b/, word);
  }
  return ["parts", Buffer.from(parts.join(""))];
}

/** Changes the header of a safetensors file and leaves its data. */
function changedHeader(bytes: Buffer, chance: Chance): Uint8Array {
  const length = Number(bytes.readBigUInt64LE());
  const json = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, Record<string, unknown>>;
  const data = bytes.subarray(8 + length);
  if (chance.happens(0.5)) return safetensorsBytes(textOf(mutated(treeOf(json), chance)), data);
  const names = Object.keys(json);
  const name = chance.pick(names);
  const tensor = { ...json[name] };
  const sizes = [0, -1, 1, 0.5, 32, 65_536, 2 ** 31, 2 ** 53, 1e300];
  chance.pick([
    () => void (tensor["shape"] = chance.list(0, 5, () => chance.pick(sizes))),
    () => void (tensor["data_offsets"] = chance.list(0, 3, () => chance.pick([...sizes, data.length]))),
    () =>
      void (tensor["dtype"] = chance.pick(["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "x"])),
    () => void (tensor["shape"] = [...((tensor["shape"] as unknown[] | undefined) ?? [])].toReversed()),
  ])();
  const { [name]: _, ...others } = json;
  const renamed = chance.pick([name, name, name, chance.pick(names), `${name}x`, "lm_head.weight", "__proto__"]);
  return safetensorsBytes({ ...others, [renamed]: tensor }, data);
}

const parsed = new WeakMap<Buffer, Record<string, unknown>>();

function jsonOf(bytes: Buffer): Record<string, unknown> {
  const known = parsed.get(bytes) ?? (JSON.parse(bytes.toString()) as Record<string, unknown>);
  parsed.set(bytes, known);
  return known;
}
