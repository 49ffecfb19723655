// `readme-moe chat`, with commands on standard input.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { writeChattingPocket } from "../support/chatting-pocket.ts";
import { runCli, type Outcome } from "../support/run-cli.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

const model = join(await persistentFolder(), "chatty");
await writeChattingPocket(model);

function chatWith(lines: readonly string[], ...more: readonly string[]): Promise<Outcome> {
  const args = ["chat", model, "--lines", "--temperature", "0", "--max-new-tokens", "8", ...more];
  return runCli(args, `${lines.join("\n")}\n`);
}

/** Messages of a saved chat. */
async function messagesIn(file: string): Promise<readonly { readonly role: string; readonly content: string }[]> {
  const chat: unknown = JSON.parse(await readFile(file, "utf8"));
  expect(chat).toMatchObject({ model });
  return (chat as { messages: { role: string; content: string }[] }).messages;
}

test("a saved chat goes on in another run as in the same one", async () => {
  const folder = await temporaryFolder();
  const [half, whole, later] = ["half", "whole", "later"].map((name) => join(folder, `${name}.json`));
  const lines = ["/system Be kind.", "Hello", `/save ${half}`, "Go on", `/save ${whole}`, "/exit", "never read"];
  const outcome = await chatWith(lines);
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
  const messages = await messagesIn(whole ?? "");
  expect(messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user", "assistant"]);
  expect(messages.slice(0, 2).map(({ content }) => content)).toEqual(["Be kind.", "Hello"]);
  expect(await messagesIn(half ?? "")).toEqual(messages.slice(0, 3));
  expect(outcome.stdout).toBe(`${messages[2]?.content}\n${messages[4]?.content}\n`);
  await chatWith([`/load ${half}`, "Go on", `/save ${later}`]);
  expect(await messagesIn(later ?? "")).toEqual(messages);
});

test("a piped text is one message, which is answered once", async () => {
  const args = ["chat", model, "--temperature", "0", "--max-new-tokens", "8"];
  const text = "Hello\n/exit\nthere";
  const outcome = await runCli(args, `${text}\n`);
  expect(outcome.code).toBe(0);
  expect(outcome.stderr).toBe("note: the answer was cut at the largest number of tokens (--max-new-tokens)\n");
  const file = join(await temporaryFolder(), "chat.json");
  await chatWith(['"""', ...text.split("\n"), '"""', `/save ${file}`]);
  expect(outcome.stdout).toBe(`${(await messagesIn(file))[1]?.content}\n`);
  expect(await runCli(args, " \n")).toMatchObject({
    code: 2,
    stderr: "error: Expected a message on standard input, got none\n",
  });
});

test("lines between marks are one message, and the model can be changed", async () => {
  const folder = await temporaryFolder();
  const [first, second] = ["first", "second"].map((name) => join(folder, `${name}.json`));
  const before = ['"""', "Hello", "there", '"""', `/save ${first}`];
  const outcome = await chatWith([...before, `/model ${model}`, "/clear", '"""Hello', 'there"""', `/save ${second}`]);
  expect(outcome.code).toBe(0);
  const messages = await messagesIn(first ?? "");
  expect(messages[0]).toEqual({ role: "user", content: "Hello\nthere" });
  expect(await messagesIn(second ?? "")).toEqual(messages);
  expect(outcome.stderr).toMatch(/chatty in \w+/);
});

test("mistakes are told, and the chat goes on", async () => {
  const broken = join(await temporaryFolder(), "broken.json");
  await writeFile(broken, '{"model": "x", "messages": [{"role": "user"}]}');
  const outcome = await chatWith(["/exti", "/load nowhere.json", `/load ${broken}`, "/model no-such-model", "Hello"]);
  expect(outcome.code).toBe(0);
  expect(outcome.stdout.trim()).not.toBe("");
  expect(outcome.stderr.trim().split("\n")).toEqual([
    "/exti: no such command; did you mean /exit?",
    "error: nowhere.json: no such file (ERR_FILE_NOT_FOUND)",
    `error: ${broken}: is no saved chat: \`messages[0]\` has no \`role\` and \`content\` (ERR_FILE_CORRUPT)`,
    expect.stringMatching(/^error: no-such-model: .* \(ERR_FILE_NOT_FOUND\)$/),
  ]);
});
