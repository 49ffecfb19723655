import * as fc from "../../support/fast-check.ts";
import { expect, test } from "vitest";
import {
  callText,
  joinToolCalls,
  parsedArguments,
  type ToolCallDelta,
  ToolCallParser,
} from "../../../packages/express/src/tools/tool-call-parser.ts";

function parse(pieces: readonly string[], isConstrained: boolean) {
  let count = 0;
  const parser = new ToolCallParser({ isConstrained, newId: () => `call_${count++}` });
  const parts = [...pieces.map((piece) => parser.push(piece)), parser.end()];
  const deltas: readonly ToolCallDelta[] = parts.flatMap(({ toolCalls }) => toolCalls);
  return {
    content: parts.map(({ content }) => content).join(""),
    calls: joinToolCalls(deltas),
    calledTools: parser.calledTools,
    deltas,
  };
}

function callOf(json: string): readonly [name: string, args: string] | undefined {
  try {
    const { name, arguments: args, parameters } = JSON.parse(json) as Record<string, unknown>;
    const given = args ?? parameters ?? {};
    return typeof name === "string" && typeof given === "object" ? [name, JSON.stringify(given)] : undefined;
  } catch {
    return undefined;
  }
}

/** Reads a whole text, and tries every end of a call. */
function plainParse(text: string, isConstrained: boolean) {
  const calls: (readonly [name: string, args: string])[] = [];
  let content = "";
  let isAfterCall = false;
  const addText = (part: string): void => {
    content += isAfterCall ? part.trimStart() : part;
    if (part.trim() !== "") isAfterCall = false;
  };
  for (let at = 0; ;) {
    const begin = text.indexOf("<tool_call>", at);
    addText(text.slice(at, begin === -1 ? undefined : begin));
    if (begin === -1) return { content, calls, calledTools: calls.length > 0 };
    const inside = text.slice(begin + 11);
    if (isConstrained) {
      const [head, name] = /^\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": /.exec(inside) ?? [];
      if (head === undefined || name === undefined) return { content, calls, calledTools: false };
      const args = inside.slice(head.length);
      const length = plainLength(args);
      calls.push([String(JSON.parse(name)), args.slice(0, length)]);
      isAfterCall = true;
      const end = length === undefined ? -1 : args.indexOf("</tool_call>", length);
      if (end === -1) return { content, calls, calledTools: false };
      at = text.length - args.length + end + 12;
      continue;
    }
    const ends = [...inside.matchAll(/<\/tool_call>/g)].map(({ index }) => index);
    const end = ends.find((one) => callOf(inside.slice(0, one)));
    const found = callOf(inside.slice(0, end));
    if (!found) return { content: `${content}<tool_call>${inside}`, calls, calledTools: calls.length > 0 };
    calls.push(found);
    isAfterCall = true;
    at = end === undefined ? text.length : begin + 11 + end + 12;
  }
}

/** Finds the end of a JSON value by its brackets outside strings. */
function plainLength(text: string): number | undefined {
  const bare = text.replace(/"(?:[^"\\]|\\.)*("|$)/gs, (string) => "s".repeat(string.length));
  for (let [at, depth] = [0, 0]; at < bare.length; at++) {
    if ("{[".includes(bare.charAt(at))) depth++;
    if ("}]".includes(bare.charAt(at)) && --depth <= 0) return at + 1;
  }
  return undefined;
}

const call = (index: number, name: string, args: string): object => ({
  id: `call_${index}`,
  type: "function",
  function: { name, arguments: args },
});

const pieces = fc.constantFrom(
  " ",
  '", "arguments": ',
  '"</tool_call>"',
  "]",
  "\\",
  "<tool_call>",
  "</tool_call>",
  "<tool",
  "_call>",
  "Hi ",
  "\n",
  "<",
  '{"name": "f", "arguments": {}}',
  '{"name": "f", "arguments": ',
  '{"a": "}\\""',
  "}",
  callText("g", '{"x": [1, {}]}'),
);

test.each([true, false])("the split of a text into pieces does not change the result (bound: %s)", (isConstrained) => {
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 12 }), (parts, cuts) => {
      const text = parts.join("");
      const ends = [...new Set(cuts.map((cut) => cut % (text.length + 1)))].toSorted((a, b) => a - b);
      const split = [...ends, text.length].map((end, index) => text.slice(ends[index - 1] ?? 0, end));
      const { deltas: _, ...whole } = parse([text], isConstrained);
      const { calls, ...plain } = plainParse(text, isConstrained);
      expect(whole).toStrictEqual({ ...plain, calls: calls.map(([name, args], index) => call(index, name, args)) });
      expect(parse(split, isConstrained)).toMatchObject(whole);
      expect(parse(Array.from(text), isConstrained)).toMatchObject(whole);
    }),
    { seed: 5, numRuns: 2000 },
  );
});

/** Texts that could be read again whenever they grow, and the calls in them: in free and in bound answers. */
const repeated: Readonly<Record<string, readonly [head: string, part: string, free?: number, bound?: number]>> = {
  "begin marks": ["", "<tool_call>"],
  "end marks within a call": ["<tool_call>", "</tool_call>"],
  "end marks within a string": ['<tool_call>{"a": "', "</tool_call>"],
  "blanks within a call": ["<tool_call>", " "],
  "blanks behind a call's JSON": ['<tool_call>{"name": "f"}', "\n", 1],
  brackets: ["<tool_call>", "{"],
  "a long name": ['<tool_call>{"name": "', "a"],
  "beginnings of arguments": ['<tool_call>{"name": "f"', ', "arguments": ', 0, 1],
  "text behind arguments": ['<tool_call>{"name": "f", "arguments": {}', "<", 0, 1],
  "empty calls": ["", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', 18_868, 18_868],
};

test.each(
  Object.entries(repeated).flatMap(([name, [head, part, free = 0, bound = 0]]) => [
    { name, isConstrained: false, head, part, numCalls: free },
    { name, isConstrained: true, head, part, numCalls: bound },
  ]),
)(
  "a million characters of $name are read one at a time (bound: $isConstrained)",
  ({ isConstrained, head, part, numCalls }) => {
    const text = head + part.repeat(Math.ceil(1_000_000 / part.length));
    const parser = new ToolCallParser({ isConstrained, newId: () => "" });
    const found = { content: 0, calls: 0 };
    const count = ({ content, toolCalls }: ReturnType<ToolCallParser["push"]>): void => {
      found.content += content.length;
      found.calls += toolCalls.filter(({ id }) => id !== undefined).length;
    };
    // A parser that reads what it holds back again for each character would take hours.
    for (let at = 0; at < text.length; at++) count(parser.push(text.charAt(at)));
    count(parser.end());
    expect(found).toStrictEqual({ content: isConstrained || numCalls > 0 ? 0 : text.length, calls: numCalls });
  },
);

test("arguments are parsed only if they are an object that can be written again", () => {
  expect(parsedArguments('{"a":[1]}')).toStrictEqual({ a: [1] });
  const deep = `{"a": ${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
  for (const text of ["[1]", "1", "null", '{"a":', deep]) expect(parsedArguments(text)).toBeUndefined();
});

test("a call that is nested too deeply to be written is text", () => {
  const text = `<tool_call>{"name": "f", "arguments": {"a": ${"[".repeat(100_000)}${"]".repeat(100_000)}}}</tool_call>`;
  expect(parse([text], false)).toStrictEqual({ content: text, calls: [], calledTools: false, deltas: [] });
});

const argumentsText = fc.json().filter((text) => text.startsWith("{"));
test.each([true, false])(
  "calls and the text before them are parsed as they were written (bound: %s)",
  (isConstrained) => {
    const text = fc.string().filter((one) => !one.includes("<tool_call>"));
    fc.assert(
      fc.property(
        text,
        fc.array(fc.tuple(fc.stringMatching(/^[\w-]{1,9}$/), argumentsText), { minLength: 1, maxLength: 3 }),
        (before, calls) => {
          const written = calls.map(([name, args]) => callText(name, args)).join("\n");
          const parsed = parse(Array.from(before + written), isConstrained);
          expect(parsed.content).toBe(before);
          expect(parsed.calledTools).toBe(true);
          const same = (args: string): string => (isConstrained ? args : JSON.stringify(JSON.parse(args)));
          expect(parsed.calls).toEqual(calls.map(([name, args], index) => call(index, name, same(args))));
        },
      ),
      { seed: 6 },
    );
  },
);

test("arguments of a bound call are passed on as they arrive; id, type and name only once", () => {
  const { deltas } = parse(['<tool_call>\n{"name": "f", "argu', 'ments": {"a"', ": 1}", "}\n</tool_call>"], true);
  expect(deltas).toEqual([
    { index: 0, id: "call_0", type: "function", function: { name: "f", arguments: "" } },
    { index: 0, function: { arguments: '{"a"' } },
    { index: 0, function: { arguments: ": 1}" } },
  ]);
});

test("text that only looks like a call stays content", () => {
  expect(parse(["a <tool_cal"], false)).toMatchObject({ content: "a <tool_cal", calls: [], calledTools: false });
  expect(parse(["<tool_call>no JSON</tool_call> more"], false)).toMatchObject({
    content: "<tool_call>no JSON</tool_call> more",
    calls: [],
    calledTools: false,
  });
});

test("calls with other white space, with `parameters` or without an end mark are parsed", () => {
  expect(parse(['<tool_call>{"parameters":{"a":1},\n"name":"f"}'], false)).toMatchObject({
    content: "",
    calls: [call(0, "f", '{"a":1}')],
    calledTools: true,
  });
});

test("a call that is cut short is passed on, but does not count as a call", () => {
  const { calls, calledTools } = parse([callText("f", '{"a": "b"}').slice(0, -16)], true);
  expect(calls).toEqual([call(0, "f", '{"a": "b')]);
  expect(calledTools).toBe(false);
});
