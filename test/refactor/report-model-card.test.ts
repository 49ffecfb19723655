import { describe, expect, test } from "vitest";
import { markdownCode, markdownText } from "../../packages/refactor/src/report/text.ts";
import { reportDocuments } from "../../packages/refactor/src/report/report-documents.ts";
import type { Report } from "../../packages/refactor/src/report/report.ts";
import { madeUpReport } from "../support/made-up-report.ts";

function cardOf(report: Report): string {
  return reportDocuments(report)["README.md"] as string;
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
  const card = cardOf(report);

  test("begins with what the hub reads", () => {
    const [, front = ""] = card.split(/^---$/m);
    expect(card.startsWith("---\n")).toBe(true);
    expect(front).toContain('base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\n');
    expect(front).toContain('license: "apache-2.0"\n');
    expect(front).toContain("pipeline_tag: text-generation\n");
  });

  test("names no base model of the hub where it is none, and keeps a licence that the hub does not know", () => {
    const [, front = ""] = cardOf({
      ...report,
      base: { ...report.base, hub_id: undefined, license: "My: licence" },
    }).split(/^---$/m);
    expect(front).not.toContain("base_model");
    expect(front).toContain('license: other\nlicense_name: "My: licence"\n');
  });

  test("shows all losses, verdicts and pictures", () => {
    for (const { label, mean } of report.losses) {
      const row = tableRows(card).find(([name]) => name?.replaceAll("*", "") === label);
      expect(row?.[2]?.replaceAll("*", "")).toBe(mean.toFixed(3));
    }
    for (const sentence of report.verdict) expect(card).toContain(sentence);
    const linked = Array.from(card.matchAll(/!\[[^\]]+\]\(([^)]+)\)/g), ([, path]) => path);
    const files = Object.keys(reportDocuments(report)).filter((name) => name.startsWith("pictures/"));
    expect(new Set(linked)).toEqual(new Set(files));
    expect(linked).toHaveLength(files.length);
    expect(card).toContain("calibration/arxiv.jsonl");
    expect(card).toContain("CC-BY-SA-4.0");
  });

  test("does without what is absent", () => {
    const bare = cardOf({
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

  test("keeps its tables whole, and markup out, whatever names are like", () => {
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
  ])("text %j", (text, markdown) => {
    expect(markdownText(text)).toBe(markdown);
  });

  test.each([
    ["plain", "`plain`"],
    ["a`b", "`` a`b ``"],
    ["``", "``` `` ```"],
    ["a|b", "`a\\|b`"],
    ["", "`  `"],
  ])("code %j", (text, markdown) => {
    expect(markdownCode(text)).toBe(markdown);
  });
});
