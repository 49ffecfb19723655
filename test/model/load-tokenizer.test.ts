import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadFolderText, loadTokenizer } from "../../packages/model/src/text/load-text.ts";
import { Tokenizer } from "../../packages/model/src/text/tokenizer.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { bpeModel, byteLevelDefinition, expectThrownReadMeError } from "../support/tokenizer-definitions.ts";

describe("special tokens", () => {
  it("have the roles that tokenizer_config.json gives them", async () => {
    const pocket = await loadTokenizer(join(import.meta.dirname, "../../models/pocket"));
    expect(pocket.bosToken).toEqual({ id: 0, text: "<|endoftext|>" });
    expect(pocket.padToken).toEqual({ id: 0, text: "<|endoftext|>" });
    expect(pocket.vocabSize).toBe(4096);
    expect(pocket.isSpecial(2)).toBe(true);
    expect(pocket.isSpecial(3)).toBe(false);
  });

  it("are found in special_tokens_map.json when tokenizer_config.json has none", async () => {
    const folder = await temporaryFolder();
    await writeJson(folder, "tokenizer.json", byteLevelDefinition(["a b"]));
    await writeJson(folder, "tokenizer_config.json", { eos_token: { content: "b" }, bos_token: null });
    await writeJson(folder, "special_tokens_map.json", {
      bos_token: { content: "ab" },
      eos_token: "a",
      pad_token: "??",
    });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.bosToken).toEqual({ id: 256, text: "ab" });
    expect(tokenizer.eosToken?.text).toBe("b");
    expect(tokenizer.padToken).toBeUndefined();
    expect(tokenizer.unkToken).toBeUndefined();
    expect(tokenizer.isSpecial(256)).toBe(true);
  });

  it("may be added by tokenizer_config.json alone", () => {
    const config = {
      added_tokens_decoder: {
        "256": { content: "<|tool|>", special: true },
        "97": { content: "clash", special: true },
      },
    };
    const tokenizer = new Tokenizer({ path: "test", tokenizer: byteLevelDefinition([]), config });
    expect([...tokenizer.encode("<|tool|>")]).toEqual([256]);
    expect(tokenizer.decode([256, 97])).toBe("<|tool|>a");
    expect(tokenizer.isSpecial(256)).toBe(true);
    expect(tokenizer.vocabSize).toBe(257);
  });
});

it("marks of tool calls are a part of decoded texts although they are control tokens", async () => {
  const folder = await temporaryFolder();
  const added = ["[TOOL_CALLS]", "[ARGS]", "</s>"].map((content, index) => ({
    content,
    id: 256 + index,
    special: true,
  }));
  await writeJson(folder, "tokenizer.json", byteLevelDefinition([], { added_tokens: added }));
  const template = "{% for c in calls %}[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments }}{% endfor %}";
  for (const [source, expected] of [
    [template, "[TOOL_CALLS]a[ARGS]"],
    ["{{ messages }}", "a"],
  ] as const) {
    await writeFile(join(folder, "chat_template.jinja"), source);
    const { tokenizer } = await loadFolderText(folder);
    expect(tokenizer.decode([256, 97, 257, 258], { skipSpecialTokens: true })).toBe(expected);
  }
});

describe("a wrong model folder", () => {
  it("is refused with the name of the missing file", async () => {
    const folder = await temporaryFolder();
    await expectReadMeError(loadTokenizer(folder), "ERR_FILE_NOT_FOUND", "tokenizer.json", "Hugging Face");
  });

  it.each(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])(
    "is told that %s is broken",
    async (name) => {
      const folder = await temporaryFolder();
      await writeJson(folder, "tokenizer.json", byteLevelDefinition([]));
      await writeFile(join(folder, name), '{"model": ');
      await expectReadMeError(loadTokenizer(folder), "ERR_FILE_CORRUPT", name, "JSON");
      await writeFile(join(folder, name), "[]");
      await expectReadMeError(loadTokenizer(folder), "ERR_FILE_CORRUPT", name, "object");
      await writeFile(join(folder, name), Buffer.from([0x22, 0xff, 0x22]));
      await expectReadMeError(loadTokenizer(folder), "ERR_FILE_CORRUPT", name, "UTF-8");
    },
  );

  it("is refused when a file is far too large, or no file", async () => {
    const folder = await temporaryFolder();
    await writeJson(folder, "tokenizer.json", byteLevelDefinition([]));
    await writeFile(join(folder, "tokenizer_config.json"), Buffer.alloc(16 * 2 ** 20 + 1, " "));
    await expectReadMeError(loadTokenizer(folder), "ERR_FILE_CORRUPT", "tokenizer_config.json", "at most");
    await mkdir(join(folder, "special_tokens_map.json"));
    await writeJson(folder, "tokenizer_config.json", {});
    await expectReadMeError(loadTokenizer(folder), "ERR_FILE_UNREADABLE", "special_tokens_map.json");
  });

  it.each([
    ["no model", { model: undefined }, "model"],
    ["no vocabulary", { model: { type: "BPE", merges: [] } }, "model.vocab"],
    ["an id that is none", { model: { type: "BPE", merges: [], vocab: { a: -1 } } }, '"a"'],
    ["an id beyond reason", { model: { type: "BPE", merges: [], vocab: { a: 2 ** 31 } } }, '"a"'],
    ["an id beyond all vocabularies", { model: { type: "BPE", merges: [], vocab: { a: 2 ** 21 } } }, '"a"'],
    ["two tokens of one id", { model: { type: "BPE", merges: [], vocab: { a: 0, b: 0 } } }, '"b"'],
    ["no merges", { model: { type: "BPE", vocab: { a: 0 } } }, "model.merges"],
    ["a merge of three", { model: bpeModel(["a", "b", "ab"], ["a b c"]) }, "merge 0"],
    ["a merge into nothing", { model: bpeModel(["a", "b"], ["a b"]) }, '"ab"'],
    ["an unknown token that is unknown", { model: bpeModel(["a"], [], { unk_token: "?" }) }, "unk_token"],
    ["an added token without text", { added_tokens: [{ id: 5 }] }, "added token"],
    ["added tokens that are no list", { added_tokens: {} }, "added_tokens"],
    [
      "a table of characters that is none",
      { normalizer: { type: "Precompiled", precompiled_charsmap: "AAA=" } },
      "charsmap",
    ],
    ["pieces without scores", { model: { type: "Unigram", vocab: [["a", 0], ["b"]] } }, "entry 1"],
    ["an unknown piece that is none", { model: { type: "Unigram", vocab: [["a", 0]], unk_id: 1 } }, "unk_id"],
    ["a sequence without steps", { pre_tokenizer: { type: "Sequence" } }, "pretokenizers"],
    ["a split without a pattern", { pre_tokenizer: { type: "Split", behavior: "Isolated" } }, "pattern"],
    [
      "a post-processor that adds what there is not",
      { post_processor: { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>", type_id: 0 } }] } },
      "post_processor",
    ],
  ])("is corrupt with %s", (_, parts, part) => {
    const build = (): Tokenizer =>
      new Tokenizer({ path: "some/tokenizer.json", tokenizer: byteLevelDefinition([], parts) });
    expectThrownReadMeError(build, "ERR_FILE_CORRUPT", "some/tokenizer.json", part);
  });

  it.each([
    ["WordLevel", { model: { type: "WordLevel", vocab: { a: 0 } } }],
    ["byte_fallback", { model: { type: "Unigram", vocab: [["a", 0]], byte_fallback: true } }],
    ["continuing_subword_prefix", { model: bpeModel(["a"], [], { continuing_subword_prefix: "##" }) }],
    ["Nmt", { normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Nmt" }] } }],
    ["Whitespace", { pre_tokenizer: { type: "Whitespace" } }],
    ["MergedWithNext", { pre_tokenizer: { type: "Split", pattern: { String: "x" }, behavior: "MergedWithNext" } }],
    ["CTC", { decoder: { type: "CTC" } }],
    ["Fancy", { post_processor: { type: "Fancy" } }],
    ["decoder", { decoder: null }],
  ])("is refused when %s is not supported", (part, parts) => {
    const build = (): Tokenizer =>
      new Tokenizer({ path: "some/tokenizer.json", tokenizer: byteLevelDefinition([], parts) });
    expectThrownReadMeError(build, "ERR_MODEL_UNSUPPORTED", "some/tokenizer.json", part);
  });
});

async function writeJson(folder: string, name: string, value: unknown): Promise<void> {
  await writeFile(join(folder, name), JSON.stringify(value));
}
