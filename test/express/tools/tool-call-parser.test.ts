import * as fc from "../../support/fast-check.ts";
import { expect, test } from "vitest";
import {
  callText,
  joinToolCalls,
  ToolCallParser,
  type ToolCallDelta,
} from "../../../packages/express/src/tools/tool-call-parser.ts";

function parse(pieces: readonly string[], isBound: boolean) {
  let count = 0;
  const parser = new ToolCallParser({ isBound, newId: () => `call_${count++}` });
  const parts = [...pieces.map((piece) => parser.push(piece)), parser.end()];
  const deltas: readonly ToolCallDelta[] = parts.flatMap(({ toolCalls }) => toolCalls);
  return {
    content: parts.map(({ content }) => content).join(""),
    calls: joinToolCalls(deltas),
    calledTools: parser.calledTools,
    deltas,
  };
}

const call = (index: number, name: string, args: string): object => ({
  id: `call_${index}`,
  type: "function",
  function: { name, arguments: args },
});

const pieces = fc.constantFrom(
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

test.each([true, false])("the split of a text into pieces does not change the result (bound: %s)", (isBound) => {
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 12 }), (parts, cuts) => {
      const text = parts.join("");
      const ends = [...new Set(cuts.map((cut) => cut % (text.length + 1)))].toSorted((a, b) => a - b);
      const split = [...ends, text.length].map((end, index) => text.slice(ends[index - 1] ?? 0, end));
      const { deltas: _, ...whole } = parse([text], isBound);
      expect(parse(split, isBound)).toMatchObject(whole);
      expect(parse(Array.from(text), isBound)).toMatchObject(whole);
    }),
    { seed: 5, numRuns: 400 },
  );
});

const argumentsText = fc.json().filter((text) => text.startsWith("{"));
test.each([true, false])("calls and the text before them are parsed as they were written (bound: %s)", (isBound) => {
  const text = fc.string().filter((one) => !one.includes("<tool_call>"));
  fc.assert(
    fc.property(
      text,
      fc.array(fc.tuple(fc.stringMatching(/^[\w-]{1,9}$/), argumentsText), { minLength: 1, maxLength: 3 }),
      (before, calls) => {
        const written = calls.map(([name, args]) => callText(name, args)).join("\n");
        const parsed = parse(Array.from(before + written), isBound);
        expect(parsed.content).toBe(before);
        expect(parsed.calledTools).toBe(true);
        const same = (args: string): string => (isBound ? args : JSON.stringify(JSON.parse(args)));
        expect(parsed.calls).toEqual(calls.map(([name, args], index) => call(index, name, same(args))));
      },
    ),
    { seed: 6 },
  );
});

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
