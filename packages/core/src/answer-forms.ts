// Forms in which models write reasoning and calls of tools, by what their chat templates show.

/** A form, as far as templates and tokenizers are concerned with it. */
interface TemplateForm {
  /** Texts that the template of such a model has, all of them. */
  readonly shows: readonly string[];
  /** Marks that may be control tokens of the model; they are part of an answer's text. @default none */
  readonly marks?: readonly string[];
}

/** Name of a form in which models write calls. */
export type ToolCallForm =
  | "mistral-named"
  | "mistral"
  | "harmony"
  | "deepseek"
  | "qwen-coder"
  | "glm"
  | "lfm"
  | "function-gemma"
  | "gemma"
  | "phi"
  | "granite"
  | "hermes"
  | "functools"
  | "llama";

/** Forms by their names. A template has the first form all of whose texts it shows. */
const TEMPLATE_FORMS: Readonly<Record<ToolCallForm, TemplateForm>> = {
  "mistral-named": { shows: ["[TOOL_CALLS]", "[ARGS]"], marks: ["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"] },
  mistral: { shows: ["[TOOL_CALLS]"], marks: ["[TOOL_CALLS]"] },
  harmony: {
    shows: ["<|channel|>", "<|call|>"],
    marks: ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"],
  },
  deepseek: {
    shows: ["<｜tool▁call▁begin｜>"],
    marks: [
      "<｜tool▁calls▁begin｜>",
      "<｜tool▁call▁begin｜>",
      "<｜tool▁sep｜>",
      "<｜tool▁call▁end｜>",
      "<｜tool▁calls▁end｜>",
    ],
  },
  "qwen-coder": { shows: ["<tool_call>", "<function="] },
  glm: { shows: ["<tool_call>", "<arg_key>"] },
  lfm: { shows: ["<|tool_call_start|>"], marks: ["<|tool_call_start|>", "<|tool_call_end|>"] },
  "function-gemma": {
    shows: ["<start_function_call>"],
    marks: ["<start_function_call>", "<end_function_call>", "<escape>"],
  },
  gemma: { shows: ["<|tool_call>"], marks: ["<|tool_call>", "<tool_call|>", '<|"|>'] },
  phi: { shows: ["<|tool|>", "<|/tool|>"], marks: ["<|tool_call|>", "<|/tool_call|>"] },
  granite: { shows: ["<|tool_call|>"], marks: ["<|tool_call|>"] },
  hermes: { shows: ["<tool_call>"], marks: ["<tool_call>", "</tool_call>"] },
  functools: { shows: ["functools"] },
  llama: { shows: ['"parameters": '], marks: ["<|python_tag|>"] },
};

const ENTRIES = Object.entries(TEMPLATE_FORMS) as readonly (readonly [ToolCallForm, TemplateForm])[];

/** Finds the form of calls that a chat template shows. @returns `undefined` for a template that shows none */
export function toolCallFormOf(template: string): ToolCallForm | undefined {
  return ENTRIES.find(([, { shows }]) => shows.every((text) => template.includes(text)))?.[0];
}

/** Lists the marks of a form that may be control tokens. */
export function toolCallMarks(form: ToolCallForm): readonly string[] {
  return TEMPLATE_FORMS[form].marks ?? [];
}

/** Marks around the reasoning of an answer. */
interface ReasoningMarks {
  readonly begin: string;
  readonly end: string;
  /** Text behind `begin` that is no reasoning. @default none */
  readonly label?: string;
  /** Marks that may be control tokens; they are part of an answer's text. */
  readonly marks: readonly string[];
}

/** Name of a form in which models write reasoning. */
export type ReasoningForm = "think" | "bracket" | "channel" | "harmony";

/** Forms of reasoning by their names. In "harmony" messages of several channels follow each other (gpt-oss). */
export const REASONING_FORMS: Readonly<Record<ReasoningForm, ReasoningMarks>> = {
  think: pairOf("<think>", "</think>"),
  bracket: pairOf("[THINK]", "[/THINK]"),
  channel: { ...pairOf("<|channel>", "<channel|>"), label: "thought" },
  harmony: {
    begin: "<|channel|>analysis<|message|>",
    end: "<|end|>",
    marks: [...(TEMPLATE_FORMS.harmony.marks ?? []), "<|end|>"],
  },
};

function pairOf(begin: string, end: string): ReasoningMarks {
  return { begin, end, marks: [begin, end] };
}

/** Finds the form of reasoning that a chat template shows. @returns `undefined` for a template that shows none */
export function reasoningFormOf(template: string): ReasoningForm | undefined {
  if (toolCallFormOf(template) === "harmony") return "harmony";
  const names = ["think", "bracket", "channel"] as const;
  return names.find((name) => template.includes(REASONING_FORMS[name].end));
}
