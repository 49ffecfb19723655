// The forms in which models write calls: marks, readers of what is between them, and how bound calls are written.

import type { ToolCallForm } from "@readme-moe/core";
import {
  bareBody,
  type CallBody,
  deepseekBody,
  fencedBody,
  functionsBody,
  gemmaBody,
  harmonyBody,
  jsonBody,
  mistralBody,
  pairsBody,
  pythonBody,
  xmlBody,
} from "./call-bodies.ts";

/** Marks that calls are between, and the readers of such calls. */
export interface CallMarks {
  /** Marks one of which begins calls. */
  readonly begins: readonly string[];
  /** Readers by the character that the calls begin with; the first that matches reads. */
  readonly bodies: readonly (readonly [first: RegExp, body: CallBody])[];
  /** Marks one of which may follow. @default none */
  readonly ends?: readonly string[];
  /** Whether a begin mark is a part of the calls, and counts at the beginning of a line only. @default false */
  readonly isOnLine?: boolean;
  /** Whether a begin mark that no calls follow begins a block, which the next one ends. @default false */
  readonly isFence?: boolean;
}

/** Texts around the arguments of a call that a grammar binds. */
interface WrittenCalls {
  readonly begin: (name: string) => string;
  readonly end: string;
  /** Mark that no other text has. @default none: free text may look like the beginning of a call */
  readonly trigger?: string;
  /** Whether the model itself writes calls so. @default true */
  readonly isOwn?: boolean;
  /** Name of the arguments in JSON. @default "arguments" */
  readonly key?: string;
  /** Text between two calls. @default "\n" */
  readonly separator?: string;
}

/** A form of one family of models. */
interface CallForm extends CallMarks {
  readonly written: WrittenCalls;
}

const ANY = /[^]/;
const JSON_FIRST = /[{[]/;

/** Describes calls in JSON between two marks. */
function inJson(begin: string, end: string, more: Partial<WrittenCalls> = {}): WrittenCalls {
  return {
    begin: (name) => `${begin}{"name": ${JSON.stringify(name)}, "arguments": `,
    end: `}${end}`,
    trigger: begin.trimEnd().replace(/\[$/, ""),
    ...more,
  };
}

const HERMES_WRITTEN = inJson("<tool_call>\n", "\n</tool_call>");
const TAGGED_ENDS = ["</tool_call>", "<tool_call|>", "<|/tool_call|>", "<|tool_call_end|>"] as const;
const DEEPSEEK_END = "<｜tool▁calls▁end｜>";

const HERMES: CallForm = {
  begins: ["<tool_call>"],
  bodies: [[JSON_FIRST, jsonBody]],
  ends: TAGGED_ENDS,
  written: HERMES_WRITTEN,
};

const MISTRAL: CallMarks = {
  begins: ["[TOOL_CALLS]"],
  bodies: [
    [JSON_FIRST, jsonBody],
    [ANY, mistralBody],
  ],
};

const PHI: CallMarks = {
  begins: ["<|tool_call|>", "functools"],
  bodies: [[JSON_FIRST, jsonBody]],
  ends: TAGGED_ENDS,
};

const FORMS: Readonly<Record<ToolCallForm, CallForm>> = {
  hermes: HERMES,
  mistral: { ...MISTRAL, written: inJson("[TOOL_CALLS][", "]") },
  "mistral-named": {
    ...MISTRAL,
    written: { begin: (name) => `[TOOL_CALLS]${name}[ARGS]`, end: "", trigger: "[TOOL_CALLS]" },
  },
  harmony: {
    begins: [
      "<|channel|>commentary to=functions.",
      "<|start|>assistant<|channel|>commentary to=functions.",
      "<|start|>assistant to=functions.",
      // The prompt ends with the role.
      " to=functions.",
    ],
    bodies: [[ANY, harmonyBody]],
    ends: ["<|call|>"],
    written: {
      begin: (name) => `<|channel|>commentary to=functions.${name} <|constrain|>json<|message|>`,
      end: "",
      trigger: "<|channel|>commentary to=functions.",
    },
  },
  deepseek: {
    begins: ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    bodies: [[ANY, deepseekBody]],
    ends: [DEEPSEEK_END],
    written: {
      begin: (name) => `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>${name}\n\`\`\`json\n`,
      end: `\n\`\`\`<｜tool▁call▁end｜>${DEEPSEEK_END}`,
      trigger: "<｜tool▁calls▁begin｜>",
    },
  },
  "qwen-coder": {
    ...HERMES,
    bodies: [...HERMES.bodies, [/</, xmlBody]],
    written: { ...HERMES_WRITTEN, isOwn: false },
  },
  glm: { ...HERMES, bodies: [...HERMES.bodies, [/\w/, pairsBody]], written: { ...HERMES_WRITTEN, isOwn: false } },
  lfm: {
    begins: ["<|tool_call_start|>"],
    bodies: [[/[[\w]/, pythonBody]],
    ends: TAGGED_ENDS,
    written: inJson("<|tool_call_start|>[", "]<|tool_call_end|>", { isOwn: false }),
  },
  "function-gemma": {
    begins: ["<start_function_call>"],
    bodies: [
      [JSON_FIRST, jsonBody],
      [ANY, gemmaBody("<escape>", "<end_function_call>")],
    ],
    ends: ["<end_function_call>"],
    written: inJson("<start_function_call>", "<end_function_call>", { isOwn: false }),
  },
  gemma: {
    begins: ["<|tool_call>"],
    bodies: [
      [JSON_FIRST, jsonBody],
      [ANY, gemmaBody('<|"|>', "<tool_call|>")],
    ],
    ends: TAGGED_ENDS,
    written: inJson("<|tool_call>", "<tool_call|>", { isOwn: false }),
  },
  phi: { ...PHI, written: inJson("<|tool_call|>[", "]<|/tool_call|>") },
  granite: { ...PHI, written: inJson("<|tool_call|>[", "]") },
  functools: { ...PHI, written: inJson("functools[", "]", { trigger: "functools[" }) },
  llama: {
    begins: ["<|python_tag|>"],
    bodies: [[JSON_FIRST, jsonBody]],
    written: {
      begin: (name) => `{"name": ${JSON.stringify(name)}, "parameters": `,
      end: "}",
      key: "parameters",
      separator: "; ",
    },
  },
};

/** Forms that models of all families write now and then. */
const COMMON: readonly CallMarks[] = [
  ...["tools", "function_call", "function_calls", "tool_calls", "TOOLCALL"].map((tag): CallMarks => ({
    begins: [`<${tag}>`],
    bodies: [
      [/\{/, jsonBody],
      [/[[\w]/, pythonBody],
    ],
    ends: [`</${tag}>`],
  })),
  // Qwen 3 Coder often leaves the first mark out.
  { begins: ["<function="], bodies: [[ANY, functionsBody]], ends: ["</tool_call>"] },
  PHI,
  { begins: ["```"], bodies: [[ANY, fencedBody]], isFence: true },
  { begins: ["{", "["], bodies: [[ANY, bareBody]], isOnLine: true },
];

/** Writes a call in Hermes' form. @param args - JSON */
export function callText(name: string, args: string): string {
  return `${HERMES_WRITTEN.begin(name)}${args}${HERMES_WRITTEN.end}`;
}

/** Marks of the calls that a model of one form may write. */
export interface FormReader {
  /** The model's own form, in which calls are bound. */
  readonly form: CallForm;
  /** Forms by their begin marks. */
  readonly marks: ReadonlyMap<string, CallMarks>;
  readonly begins: readonly string[];
  /** Finds the first begin mark: the longest one of its place. */
  readonly pattern: RegExp;
}

const READERS = new Map<ToolCallForm, FormReader>();

/** Returns the marks by which calls of a model are read. Of forms with one begin mark the model's own counts. */
export function formReader(name: ToolCallForm = "hermes"): FormReader {
  const known = READERS.get(name);
  if (known) return known;
  const form = FORMS[name];
  const entries = [...COMMON, HERMES, form].flatMap((marks) => marks.begins.map((begin) => [begin, marks] as const));
  const marks = new Map(entries);
  const begins = [...marks.keys()].toSorted((one, other) => other.length - one.length);
  const pattern = new RegExp(begins.map((mark) => mark.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"));
  const reader = { form, marks, begins, pattern };
  READERS.set(name, reader);
  return reader;
}
