import { expect, test } from "vitest";
import { meantCalls } from "../../bench/tools/oracle.ts";

const names = new Set(["f", "g"]);

test.each([
  ['a {"name": "f", "arguments": {"x": "}"}} b {"name": "g", "parameters": {}}', ["f", "g"]],
  ['{"name": "h", "arguments": {}} {"name": "f"} {"name": "f", "arguments": 1}', []],
  ['{ {"name": "f", "arguments": {}}', ["f"]],
  ["<function=f>\n<parameter=a>\n1\n</parameter>\n</function>", ["f"]],
  ["no call {", []],
])("a text means the calls that it names with arguments: %s", (text, expected) => {
  expect(meantCalls(text, names).map(({ name }) => name)).toEqual(expected);
});
