// Input of a user in a terminal's chat.

import { describe, expect, test } from "vitest";
import { helpLines, readLine, type ChatInput, type OpenLines } from "../../packages/readme-moe/src/chat/input.ts";
import * as fc from "../support/fast-check.ts";

/** Reads lines one after the other. */
function inputsOf(lines: readonly string[]): readonly ChatInput[] {
  let open: OpenLines;
  return lines.flatMap((line) => {
    const read = readLine(open, line);
    open = read.open;
    return read.input ?? [];
  });
}

function message(text: string): ChatInput {
  return { kind: "message", text };
}

describe("messages", () => {
  test.each([
    [["Hello"], ["Hello"]],
    [["  indented"], ["  indented"]],
    [["", "   "], []],
    [['"""', "a", "", "  b", '"""'], ["a\n\n  b"]],
    [['"""first', 'last"""'], ["first\nlast"]],
    [
      ['"""one line"""', "next"],
      ["one line", "next"],
    ],
    [['"""', '"""'], []],
    [['"""', "/exit", '"""'], ["/exit"]],
    [
      ["/ not a command", "1/2", "/1"],
      ["/ not a command", "1/2", "/1"],
    ],
  ])("%j are %j", (lines, texts) => {
    expect(inputsOf(lines)).toEqual(texts.map(message));
  });

  test("of any lines between marks are those lines", () => {
    const line = fc.string().filter((text) => !text.includes('"""') && !/[\r\n]/.test(text));
    fc.assert(
      fc.property(fc.array(line, { minLength: 1, maxLength: 6 }), (lines) => {
        const text = lines.join("\n");
        const expected = text.trim() === "" ? [] : [message(text)];
        expect(inputsOf(['"""', ...lines, '"""'])).toEqual(expected);
      }),
    );
  });
});

describe("commands", () => {
  test.each([
    ["/clear", "clear", ""],
    ["  /EXIT ", "exit", ""],
    ["/bye", "exit", ""],
    ["/quit", "exit", ""],
    ["/system Be brief. ", "system", "Be brief."],
    ["/system", "system", ""],
    ["/model qwen3:0.6b", "model", "qwen3:0.6b"],
    ["/save my chat.json", "save", "my chat.json"],
  ])("%j is %s with %j", (line, name, argument) => {
    expect(inputsOf([line])).toEqual([{ kind: "command", name, argument }]);
  });

  test.each([
    ["/claer", "/claer: no such command; did you mean /clear?"],
    ["/translate", "/translate: no such command; /help shows all commands"],
    ["/sa", "/sa: no such command; did you mean /save?"],
    ["/save", "/save: expected <file>, such as /save chat.json"],
    ["/exit now", "/exit: expected nothing behind it"],
  ])("%j is no command: %s", (line, why) => {
    expect(inputsOf([line])).toEqual([{ kind: "wrong", why }]);
  });

  test("are all in the help", () => {
    const help = helpLines().join("\n");
    for (const name of ["help", "clear", "system", "model", "save", "load", "exit"]) expect(help).toContain(`/${name}`);
  });
});
