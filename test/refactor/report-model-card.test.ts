import { describe, expect, test } from "vitest";
import {
  bytes,
  decimals,
  duration,
  grouped,
  listed,
  markdownCode,
  markdownTable,
  markdownText,
  percent,
  rounded,
  signed,
} from "../../packages/refactor/src/report/verdict.ts";
import { modelCard, reportDocuments } from "../../packages/refactor/src/report/model-card.ts";
import { lossRow, type Report } from "../../packages/refactor/src/report/report.ts";
import { resolveTuneOptions } from "../../packages/refactor/src/tuning/options.ts";
import { tuningDocuments, tuningReport } from "../../packages/refactor/src/tuning/tuning-report.ts";
import { madeUpReport } from "../support/made-up-report.ts";

/** Writes a card without pictures, whose drawing takes longer than all else. */
function cardOf(report: Report): string {
  return modelCard(report, []);
}

/** Cells of all table rows, with escaped bars in them. */
function tableRows(card: string): readonly (readonly string[])[] {
  const rows = card.split("\n").filter((line) => line.startsWith("|"));
  return rows.map((row) =>
    row
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim()),
  );
}

describe("the model card", () => {
  const report = madeUpReport();
  // Written in each test, so that mutation testing sees which tests notice a change.
  const written = (): string => cardOf(report);

  test("begins with the metadata that the hub reads", () => {
    const card = written();
    const [, front = ""] = card.split(/^---$/m);
    expect(card.startsWith("---\n")).toBe(true);
    expect(front).toContain('base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\n');
    expect(front).toContain('license: "apache-2.0"\n');
    expect(front).toContain("pipeline_tag: text-generation\n");
  });

  test("names no base model that is not on the hub, and keeps a licence that the hub does not know", () => {
    const [, front = ""] = cardOf({
      ...report,
      base: { ...report.base, hub_id: undefined, license: "My: licence" },
    }).split(/^---$/m);
    expect(front).not.toContain("base_model");
    expect(front).toContain('license: other\nlicense_name: "My: licence"\n');
  });

  test("shows all losses, verdicts and pictures", async () => {
    const documents = await reportDocuments(report);
    const card = documents["README.md"] as string;
    for (const { label, mean } of report.losses) {
      const row = tableRows(card).find(([name]) => name?.replaceAll("*", "") === label);
      expect(row?.[2]?.replaceAll("*", "")).toBe(mean.toFixed(3));
    }
    for (const sentence of report.verdict) expect(card).toContain(sentence);
    const linked = Array.from(card.matchAll(/!\[[^\]]+\]\(([^)]+)\)/g), ([, path]) => path);
    const files = Object.keys(documents).filter((name) => name.startsWith("pictures/"));
    expect(new Set(linked)).toEqual(new Set(files));
    expect(linked).toHaveLength(files.length);
    expect(card).toContain("calibration/arxiv.jsonl");
    expect(card).toContain("CC-BY-SA-4.0");
  });

  test("says how the model was made, what it costs and where it ends", () => {
    const card = written();
    for (const sentence of [
      "# SmolLM2-135M-Instruct, refactored into 7 experts",
      "The feed-forward layers of the dense model SmolLM2-135M-Instruct were cut into 7 experts after " +
        "[Read-ME](https://arxiv.org/abs/2410.19123); a small router chooses each token's expert before the model runs. " +
        "The result has 371 million parameters, of which a token uses 94.7 million; the dense model has 135 million.",
      "Mean loss in nats per token on 28,672 tokens of held-out documents",
      "- 78 % of tokens go to the expert of their document's domain.\n- 94 % keep the previous token's expert.\n" +
        "- Regret: 0.31, where 0 is the best expert for every token and 1 a random one.",
      "- Base model: `HuggingFaceTB/SmolLM2-135M-Instruct`, `sha256:8b3f0c1d`: llama, 12 layers, hidden size 576, FFN size 1,024.",
      "- Method `sequential`, seed 1; neurons per expert: 384; shared by all: 128; router: 6.89 million parameters.",
      "- Options: `own_share=0.7`, `ridge=0.001`, `error_share=0.5`.",
      "- The refactoring took 12 min 34 s and at most 1.84 GB of memory on 2 of 2 cores (linux x64, Node.js v20.20.2): " +
        "calibration 4 min 1 s, router 3 min 53 s, evaluation 4 min 30 s.\n- All figures: [report.json](report.json).",
      "- Quality is below that of SmolLM2-135M-Instruct; if memory and time allow it, prefer the dense model.",
      "- Experts were fitted to 7 kinds of text.",
      '- "arxiv:2410.19123"',
    ]) {
      expect(card).toContain(sentence);
    }
    expect(card).not.toContain("This model has no router.");
    expect(card).not.toContain("Their licences were not given.");
    const tables = tableRows(card);
    expect(tables).toContainEqual(["expert", "name", "share of tokens"]);
    expect(tables).toContainEqual(["3", "common_crawl", "14 %"]);
    expect(tables).toContainEqual([
      "Dense model",
      "100 %",
      "2.751",
      "–",
      "2.710",
      "3.190",
      "3.310",
      "3.020",
      "1.420",
      "2.660",
      "2.950",
    ]);
    expect(tables).toContainEqual(["book", "`calibration/book.jsonl`", "41", "32,768", "4", "4,096", "CC-BY-SA-4.0"]);
  });

  test("has a table of the data, with a column of licences only if there are any", () => {
    const header = ["domain", "files", "documents", "tokens", "held-out documents", "held-out tokens"];
    expect(tableRows(written())).toContainEqual([...header, "licences"]);
    for (const licenses of [undefined, []]) {
      const data = report.data.map((domain) => ({ ...domain, files: ["a.jsonl", "b.jsonl"], licenses }));
      const tables = tableRows(cardOf({ ...report, data }));
      expect(tables).toContainEqual(header);
      expect(tables).toContainEqual(["book", "`a.jsonl`, `b.jsonl`", "41", "32,768", "4", "4,096"]);
    }
  });

  test("lists verdicts line by line, and ends the commands before the next section", () => {
    const card = cardOf({ ...report, verdict: ["First.", "Second."] });
    expect(card).toContain("\n\n- First.\n- Second.\n\n");
    expect(card).toMatch(/eval DIR --data text\.jsonl\n```\n\n[#|!\w]/);
  });

  test("writes sizes that differ by layer as ranges, and the singular of one expert", () => {
    const [dense, paper] = report.losses;
    const better = lossRow("ours", 0.5, dense?.losses ?? {}, dense?.losses ?? {});
    const other = cardOf({
      ...report,
      settings: {
        ...report.settings,
        experts: ["all"],
        expert_size: [96, 1024, 128],
        shared_size: [0, 0, 0],
        options: {},
      },
      data: report.data.slice(0, 1).map((one) => ({ ...one, licenses: [] })),
      losses: [dense, paper, better].flatMap((row) => row ?? []),
    });
    expect(other).toContain("refactored into one expert\n");
    expect(other).toContain("were cut into one expert after");
    expect(other).toContain("neurons per expert: 96 to 1,024 by layer; shared by all: none;");
    expect(other).toContain("- Experts were fitted to one kind of text.");
    expect(other).not.toContain("- Options");
    expect(other).not.toContain("Quality is below");
    expect(other).toContain("Their licences were not given.");
    const even = cardOf({
      ...report,
      settings: { ...report.settings, expert_size: [128, 128], shared_size: [64, 64] },
    });
    expect(even).toContain("neurons per expert: 128; shared by all: 64;");
  });

  test("lists licences of the domains that have them", () => {
    const [first, second] = report.data;
    const some = cardOf({
      ...report,
      data: [
        { ...first, licenses: ["MIT", "ISC"] },
        { ...second, licenses: undefined },
      ] as Report["data"],
    });
    const licences = tableRows(some).flatMap((row) => (row[0] === "arxiv" || row[0] === "book" ? [row[6] ?? ""] : []));
    expect(licences).toEqual(["MIT, ISC", "not given"]);
    expect(some).not.toContain("Their licences were not given.");
  });

  test.each([
    ["MIT", 'license: "mit"'],
    ["llama3.1", 'license: "llama3.1"'],
    ["my own", 'license: other\nlicense_name: "my own"'],
  ])("names the licence %s as the hub does", (license, lines) => {
    expect(cardOf({ ...report, base: { ...report.base, license } })).toContain(
      `\n${lines}\nlibrary_name: readme-moe\n`,
    );
  });

  test("says that a model has no router", () => {
    const bare = cardOf({ ...report, router: undefined, base: { ...report.base, license: undefined } });
    expect(bare).toContain("This model has no router.");
    expect(bare).not.toContain("a small router");
    expect(bare).not.toContain("license:");
    expect(bare).toContain("[Read-ME](https://arxiv.org/abs/2410.19123). The result has");
    expect(tableRows(bare)).toContainEqual(["expert", "name"]);
    expect(tableRows(bare)).toContainEqual(["3", "common_crawl"]);
  });

  test("leaves out absent parts", async () => {
    const { "README.md": bare = "" } = await reportDocuments({
      ...report,
      router: undefined,
      overlap: undefined,
      expert_losses: undefined,
      losses: report.losses.slice(0, 1),
      data: report.data.map((domain) => ({ ...domain, licenses: undefined })),
      verdict: [],
    });
    expect(bare).not.toContain("## Router");
    expect(bare).not.toContain("pictures/routes.svg");
    expect(bare).toContain("Their licences were not given.");
    expect(bare).not.toMatch(/undefined|NaN|\n\n\n/);
  });

  test("escapes markup in names, also within tables", () => {
    const card = written();
    const hostile = "a|b <script>*x*</script> [l](http://u) `c` \n# d & &lt; _e_";
    const renamed = {
      ...report,
      base: { ...report.base, name: hostile, source: hostile, license: hostile, hub_id: hostile },
      settings: { ...report.settings, experts: report.settings.experts.map(() => hostile) },
      data: report.data.map((domain) => ({ ...domain, name: hostile, files: [hostile], licenses: [hostile] })),
      losses: report.losses.map((row) => ({ ...row, label: hostile, losses: { [hostile]: 1 } })),
    };
    const text = cardOf(renamed);
    expect(tableRows(text).map((row) => row.length)).toEqual(tableRows(card).map((row) => row.length));
    const outsideCode = text.slice(text.indexOf("\n---\n", 4)).replace(/(`+)(?!`).*?(?<!`)\1(?!`)/g, "");
    expect(outsideCode).not.toMatch(/(?<!\\)<|(?<!\\)\[l|^# d/m);
    expect(text.split("\n").filter((line) => line.startsWith("# "))).toHaveLength(1);
  });
});

test("the section of a tuning has its losses in a table, and escapes names", async () => {
  const [dense, before, after] = [2, 3, 2.5].map((mean) => ({ step: 0, losses: [mean], mean }));
  const counts = { documents: 1, held_out_documents: 1, tokens: 1, evaluation_tokens: 1 };
  const report = tuningReport({
    model: "m",
    teacher: "t",
    options: resolveTuneOptions({}),
    trainedParameters: 1,
    seconds: 1,
    domains: [{ name: "a|b <i>", files: [], ...counts }],
    commonNeurons: 0.125,
    history: { teacher: dense!, steps: [], evaluations: [before!, after!] },
  });
  const { "README.md": card = "" } = await tuningDocuments({ path: "no such folder" }, report);
  expect(tableRows(card)).toContainEqual(["a\\|b \\<i\\>", "2.00", "3.00", "2.50"]);
  expect(tableRows(card)).toContainEqual(["**mean**", "2.00", "3.00", "2.50"]);
  expect(card).toContain("13 % of the experts' neurons");
  expect(card).toContain("Above the dense model: +1.000 before, **+0.500** tuned.");
});

describe("Markdown", () => {
  test.each([
    ["SmolLM2-135M", "SmolLM2-135M"],
    ["common_crawl", "common_crawl"],
    ["_a_ *b*", "\\_a\\_ \\*b\\*"],
    ["# no heading", "\\# no heading"],
    ["1. no list", "1\\. no list"],
    ["2.5 is a number", "2\\.5 is a number"],
    ["a\nb\u0000c", "a b c"],
    ["R&D &amp;", "R&D \\&amp;"],
    ["[x](y)<z>", "\\[x\\](y)\\<z\\>"],
  ])("escapes the text %j", (text, markdown) => {
    expect(markdownText(text)).toBe(markdown);
  });

  test.each([
    ["plain", "`plain`"],
    ["a`b", "`` a`b ``"],
    ["``", "``` `` ```"],
    ["a|b", "`a\\|b`"],
    ["", "`  `"],
  ])("writes the code %j", (text, markdown) => {
    expect(markdownCode(text)).toBe(markdown);
  });
});

describe("figures", () => {
  test.each([
    [() => decimals(1.005, 1), "1.0"],
    [() => decimals(-1.26), "-1.26"],
    [() => decimals(-0.004), "0.00"],
    [() => signed(0.25, 1), "+0.3"],
    [() => signed(-0.25, 2), "−0.25"],
    [() => signed(0.004, 2), "0.00"],
    [() => signed(-0.004, 2), "0.00"],
    [() => percent(0.256), "26 %"],
    [() => percent(1), "100 %"],
    [() => grouped(0), "0"],
    [() => grouped(999.4), "999"],
    [() => grouped(1000), "1,000"],
    [() => grouped(12_345_678), "12,345,678"],
    [() => rounded(999_999), "999,999"],
    [() => rounded(1_000_000), "1.00 million"],
    [() => rounded(6_890_000), "6.89 million"],
    [() => rounded(1_000_000_000), "1.00 billion"],
    [() => rounded(24_700_000_000), "24.7 billion"],
    [() => duration(0), "0.0 s"],
    [() => duration(9_949), "9.9 s"],
    [() => duration(10_000), "10 s"],
    [() => duration(59_999), "60 s"],
    [() => duration(60_000), "1 min 0 s"],
    [() => duration(125_999), "2 min 5 s"],
    [() => duration(3_599_999), "59 min 59 s"],
    [() => duration(3_600_000), "1 h 0 min"],
    [() => duration(9_060_000), "2 h 31 min"],
    [() => bytes(999_400_000), "999 MB"],
    [() => bytes(1_000_000_000), "1.00 GB"],
    [() => bytes(1_843_000_000), "1.84 GB"],
    [() => listed([]), ""],
    [() => listed(["a"]), "a"],
    [() => listed(["a", "b"]), "a and b"],
    [() => listed(["a", "b", "c"]), "a, b and c"],
  ])("are written by %s as %j", (write, text) => {
    expect(write()).toBe(text);
  });

  test("are aligned to the right in columns that have nothing else", () => {
    const rows = [
      ["1,024", "12 %", "**+0.5**", "–", "1 s", "a1", "5"],
      ["3", "**7 %**", "−0.25", "2", "2", "1", "x"],
    ];
    expect(markdownTable(["a", "b", "c", "d", "e", "f", "g"], rows).split("\n")).toEqual([
      "| a | b | c | d | e | f | g |",
      "| --: | --: | --: | --: | --- | --- | --- |",
      "| 1,024 | 12 % | **+0.5** | – | 1 s | a1 | 5 |",
      "| 3 | **7 %** | −0.25 | 2 | 2 | 1 | x |",
    ]);
  });
});
