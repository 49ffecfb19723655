// Marks that models were trained to fill a gap in a text with, by family.

/** Marks of a family of models, and the order in which it saw them. */
interface Family {
  readonly name: string;
  readonly prefix: string;
  readonly suffix: string;
  /** Mark before the answer. @default none: the answer goes on behind the prefix */
  readonly middle?: string;
  /** Marks before the name of a repository, and before the name and text of a file. */
  readonly repository?: string;
  readonly file?: string;
  /** Text behind the name of a repository. @default none */
  readonly afterRepository?: string | undefined;
  /** Mark that fills up sequences in training, and ends answers. */
  readonly pad?: string;
  /** Tokens that end an answer, besides all marks. */
  readonly ends: readonly string[];
  /** Whether the suffix comes before the prefix. @default false */
  readonly isSuffixFirst?: boolean | undefined;
  /** Whether the suffix has no space before its first word, as SentencePiece would put there. @default false */
  readonly joinsSuffix?: boolean | undefined;
}

const PIPED = { prefix: "<|fim_prefix|>", suffix: "<|fim_suffix|>", middle: "<|fim_middle|>", pad: "<|fim_pad|>" };
const ANGLED = { prefix: "<fim_prefix>", suffix: "<fim_suffix>", middle: "<fim_middle>", pad: "<fim_pad>" };

/** The first family whose marks a vocabulary has is its own. A pad is not asked for. */
const FAMILIES: readonly Family[] = [
  {
    name: "qwen2.5-coder",
    ...PIPED,
    repository: "<|repo_name|>",
    afterRepository: "\n",
    file: "<|file_sep|>",
    ends: ["<|endoftext|>"],
  },
  { name: "codegemma", ...PIPED, file: "<|file_separator|>", ends: ["<eos>"] },
  { name: "granite-4", ...PIPED, ends: ["<|end_of_text|>", "<|endoftext|>"] },
  { name: "starcoder2", ...ANGLED, repository: "<repo_name>", file: "<file_sep>", ends: ["<|endoftext|>"] },
  {
    name: "starcoder",
    ...ANGLED,
    repository: "<reponame>",
    file: "<filename>",
    ends: ["<|endoftext|>", "<|end_of_text|>"],
  },
  { name: "granite", ...ANGLED, ends: ["<|endoftext|>", "<|end_of_text|>"] },
  {
    name: "santacoder",
    prefix: "<fim-prefix>",
    suffix: "<fim-suffix>",
    middle: "<fim-middle>",
    pad: "<fim-pad>",
    ends: ["<|endoftext|>"],
  },
  {
    name: "deepseek-coder",
    prefix: "<｜fim▁begin｜>",
    suffix: "<｜fim▁hole｜>",
    middle: "<｜fim▁end｜>",
    ends: ["<｜end▁of▁sentence｜>"],
  },
  {
    name: "code-llama",
    prefix: "▁<PRE>",
    suffix: "▁<SUF>",
    middle: "▁<MID>",
    ends: ["▁<EOT>", "</s>"],
    joinsSuffix: true,
  },
  { name: "codestral", prefix: "[PREFIX]", suffix: "[SUFFIX]", ends: ["</s>"], isSuffixFirst: true, joinsSuffix: true },
];

/** Roles of marks that a model's files may name themselves: those of Code Llama's config, and their keys in GGUF. */
export const FILL_IN_ROLES = [
  ["prefix_token", "fim_pre", "prefix"],
  ["suffix_token", "fim_suf", "suffix"],
  ["middle_token", "fim_mid", "middle"],
  ["repository_token", "fim_rep"],
  ["file_token", "fim_sep"],
  ["fim_pad_token", "fim_pad"],
  ["eot_token", "eot"],
] as const;

/** A vocabulary that may have marks. */
export interface MarkedVocabulary {
  tokenId(text: string): number | undefined;
  /** Returns the token that the model's files give a role. */
  roleOf(role: string): string | undefined;
}

interface Mark {
  readonly id: number;
  readonly text: string;
}

/** The marks of a vocabulary. */
export interface FillInMarks extends Pick<Family, "isSuffixFirst" | "joinsSuffix" | "afterRepository"> {
  readonly family: string;
  readonly prefix: Mark;
  readonly suffix: Mark;
  /** Mark before the answer. @default none: the answer goes on behind the prefix */
  readonly middle?: Mark | undefined;
  readonly repository?: Mark | undefined;
  readonly file?: Mark | undefined;
  readonly pad?: Mark | undefined;
  /** Tokens that end an answer. */
  readonly endTokenIds: readonly number[];
}

/** Names of the fields of `FillInMarks` that are marks. */
export const MARK_NAMES = ["prefix", "suffix", "middle", "repository", "file", "pad"] as const;

/** Finds the marks of a vocabulary; `undefined` if it has none, as most models that were not trained on code. */
export function fillInMarks(vocabulary: MarkedVocabulary): FillInMarks | undefined {
  const markOf = (text: string | undefined): Mark | undefined => {
    const id = text === undefined ? undefined : vocabulary.tokenId(text);
    return text === undefined || id === undefined ? undefined : { id, text };
  };
  for (const { name: family, ends, ...texts } of [...FAMILIES, ...declaredFamily(vocabulary)]) {
    const { isSuffixFirst, joinsSuffix, afterRepository } = texts;
    const marks = Object.fromEntries(MARK_NAMES.map((name) => [name, markOf(texts[name])]));
    const { prefix, suffix } = marks;
    const isWhole = MARK_NAMES.every((name) => name === "pad" || texts[name] === undefined || marks[name]);
    if (!prefix || !suffix || !isWhole) continue;
    const endings = [...Object.values(marks), ...ends.map(markOf)].flatMap((mark) => mark?.id ?? []);
    const endTokenIds = [...new Set(endings)];
    return { family, ...marks, prefix, suffix, endTokenIds, isSuffixFirst, joinsSuffix, afterRepository };
  }
  return undefined;
}

/** Makes the family of a model whose files name the marks. */
function declaredFamily(vocabulary: MarkedVocabulary): readonly Family[] {
  const [prefix, suffix, middle, repository, file, pad, eot] = FILL_IN_ROLES.map(([role]) => vocabulary.roleOf(role));
  if (prefix === undefined || suffix === undefined || middle === undefined) return [];
  const known = { ...(repository && { repository }), ...(file && { file }), ...(pad && { pad }) };
  return [{ name: "declared", prefix, suffix, middle, ...known, ends: eot === undefined ? [] : [eot] }];
}
