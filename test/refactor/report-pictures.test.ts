import { DOMParser, type Document, type Element } from "@xmldom/xmldom";
import { array, assert, constantFrom, integer, nat, oneof, property, record, string } from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { lossRow } from "../../packages/refactor/src/report/measurements.ts";
import { reportPictures } from "../../packages/refactor/src/report/pictures/report-pictures.ts";
import { wrapRoutes } from "../../packages/refactor/src/report/pictures/routes-picture.ts";
import type { Report } from "../../packages/refactor/src/report/report.ts";
import { madeUpReport } from "../support/made-up-report.ts";

const NAMES = ["losses", "expert-losses", "routes", "overlap", "layer-errors"];

/** Draws the pictures, which have to be well-formed XML, by name. */
function drawn(report: Report): ReadonlyMap<string, Document> {
  return new Map(
    reportPictures(report).map(({ file, svg }) => {
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
      return [file.replace(/^pictures\/|\.svg$/g, ""), parse(svg)];
    }),
  );
}

function parse(svg: string): Document {
  return new DOMParser({ onError: refuse }).parseFromString(svg, "image/svg+xml");
}

function refuse(level: string, message: string): void {
  if (level !== "warning") throw new Error(`${level}: ${message}`);
}

function elements(document: Document, name: string): readonly Element[] {
  return Array.from(document.getElementsByTagName(name));
}

/** Lists the visible texts, without tooltips. */
function texts(document: Document): readonly string[] {
  return elements(document, "text").map((text) => text.firstChild?.nodeValue ?? "");
}

describe.each([2, 7, 16])("with %i experts", (domains) => {
  const report = madeUpReport({ domains, layers: 2 * domains });

  test("draws all pictures, with all names", () => {
    const pictures = drawn(report);
    expect([...pictures.keys()]).toEqual(NAMES);
    for (const { name } of report.data) {
      for (const picture of ["losses", "expert-losses", "routes", "overlap"]) {
        expect(texts(pictures.get(picture) as Document)).toContain(name);
      }
    }
    for (const { id, label } of report.losses) {
      if (id !== "dense") expect(texts(pictures.get("losses") as Document)).toContain(label);
    }
  });

  test.each(NAMES)("lets texts of %s overlap neither each other nor the edge", (name) => {
    const picture = drawn(report).get(name) as Document;
    const [width = 0, height = 0] = (picture.documentElement?.getAttribute("viewBox") ?? "")
      .split(" ")
      .slice(2)
      .map(Number);
    const boxes = elements(picture, "text")
      .filter((text) => !text.hasAttribute("transform"))
      .map(boxOf);
    for (const [index, box] of boxes.entries()) {
      expect(box.left >= 0 && box.right <= width && box.top >= 0 && box.bottom <= height, box.text).toBe(true);
      for (const other of boxes.slice(index + 1)) {
        const apart =
          box.right <= other.left || other.right <= box.left || box.bottom <= other.top || other.bottom <= box.top;
        expect(apart, `${box.text} | ${other.text}`).toBe(true);
      }
    }
  });

  test("cuts no text", () => {
    for (const [name, picture] of drawn(report)) {
      if (name !== "routes") expect(texts(picture).join("")).not.toContain("…");
    }
  });
});

/** Estimates the box of a text, with letters as wide as those of usual fonts. */
function boxOf(element: Element): { left: number; right: number; top: number; bottom: number; text: string } {
  const number = (name: string): number => Number(element.getAttribute(name) ?? 0);
  const text = element.firstChild?.nodeValue ?? "";
  const size = number("font-size");
  const width = number("textLength") || text.length * size * 0.55;
  const anchor = element.getAttribute("text-anchor");
  const left = number("x") - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
  // Columns of routes touch each other.
  return {
    left: left + 0.1,
    right: left + width - 0.1,
    top: number("y") - 0.75 * size,
    bottom: number("y") + 0.15 * size,
    text,
  };
}

test("draws the same pictures for the same report", () => {
  expect(reportPictures(madeUpReport())).toEqual(reportPictures(madeUpReport()));
  expect(reportPictures(madeUpReport({ seed: 2 }))).not.toEqual(reportPictures(madeUpReport()));
});

test("draws no comparisons for one expert on one domain", () => {
  expect([...drawn(madeUpReport({ domains: 1, layers: 1 })).keys()]).toEqual(["losses", "routes", "layer-errors"]);
});

test("leaves out figures that were not measured", () => {
  const report = madeUpReport();
  const [dense, paper, ...others] = report.losses;
  const sparse = {
    ...report,
    expert_losses: undefined,
    overlap: undefined,
    router: undefined,
    layers: report.layers.map((layer) => ({ ...layer, relative_errors: {} })),
  };
  expect([...drawn({ ...sparse, losses: [dense as Report["losses"][0]] }).keys()]).toEqual([]);
  expect([...drawn({ ...sparse, losses: [] }).keys()]).toEqual([]);
  const partial = lossRow("free", 0.5, { github: 1.3 }, dense?.losses ?? {});
  const rest = texts(
    drawn({ ...sparse, losses: [dense, partial, ...others] as Report["losses"] }).get("losses") as Document,
  );
  expect(rest).not.toContain(paper?.label);
  expect(rest).toContain("−0.12"); // better than dense
});

describe("text from outside", () => {
  const hostile = `<script>alert("1")</script>&amp;' \u0000\u0007\uD83C \u202E]]>`;
  const shown = `<script>alert("1")</script>&amp;' \uFFFD\uFFFD\uFFFD \uFFFD]]>`;

  test("is escaped everywhere", () => {
    const report = madeUpReport({ domains: 2 });
    const [first, second] = report.data;
    const renamed = JSON.parse(
      JSON.stringify(report, (key, value: unknown) =>
        value === first?.name ? hostile : key === "label" ? hostile : value,
      ),
    ) as Report;
    const documents = drawn({
      ...renamed,
      base: { ...report.base, name: hostile },
      losses: renamed.losses.map((row) => ({ ...row, losses: { [hostile]: 3, [second?.name ?? ""]: 3 } })),
      router: {
        ...(report.router as NonNullable<Report["router"]>),
        samples: [{ domain: hostile, pieces: [{ text: hostile, expert: 0 }] }],
      },
    });
    expect([...documents.keys()]).toEqual(NAMES);
    for (const [name, document] of documents) {
      expect(elements(document, "script")).toEqual([]);
      if (name !== "layer-errors") expect(document.documentElement?.textContent).toContain(shown.slice(0, 20));
    }
    const routes = texts(documents.get("routes") as Document).join("");
    expect(routes).toContain(shown.replaceAll(" ", "\u00A0"));
  });
});

describe("routes in lines", () => {
  const piece = record({
    text: oneof(string({ unit: "grapheme", maxLength: 12 }), constantFrom("\n", "\n\n", " the", "更多", "🌍", "")),
    expert: nat(3),
  });

  test("keep every character, its expert and the width of a line", () => {
    assert(
      property(array(piece, { maxLength: 40, size: "max" }), integer({ min: 4, max: 30 }), (pieces, width) => {
        const { lines, isCut } = wrapRoutes(pieces, width, Infinity);
        expect(isCut).toBe(false);
        const all = lines.flat();
        for (const line of lines) {
          let column = 0;
          for (const run of line) {
            expect(run.column).toBe(column);
            expect(run.columns).toBe(run.texts.reduce((sum, part) => sum + part.columns, 0));
            for (const place of run.tokenColumns) expect(place).toBeGreaterThanOrEqual(run.column);
            column += run.columns;
          }
          expect(column).toBeLessThanOrEqual(width);
        }
        for (const expert of [0, 1, 2, 3]) {
          const own = all.filter((run) => run.expert === expert).flatMap((run) => run.texts.map(({ text }) => text));
          const given = pieces
            .filter((one) => one.expert === expert)
            .map(({ text }) => text.replaceAll(/\r\n|[\r\n\u2028\u2029]/g, "↵"));
          expect(own.join("")).toBe(given.join("").replace(/\s/gu, "\u00A0"));
        }
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  test("break at the text's line breaks, otherwise between tokens", () => {
    const pieces = ["One", " two", " three", "\n", "\n", "four"].map((text) => ({ text, expert: 0 }));
    const { lines } = wrapRoutes(pieces, 10, 10);
    const written = lines.map((line) => line.flatMap((run) => run.texts.map(({ text }) => text)).join(""));
    expect(written).toEqual(["One\u00A0two", "\u00A0three↵↵", "four"]);
    expect(lines[1]?.[0]?.tokenColumns).toEqual([6, 7]);
  });

  test("end at the largest number of lines", () => {
    const pieces = ["one", " two", " six"].map((text, expert) => ({ text, expert }));
    expect(wrapRoutes(pieces, 5, 2)).toMatchObject({ isCut: true, lines: [[{ expert: 0 }], [{ expert: 1 }]] });
    expect(wrapRoutes(pieces.slice(0, 2), 5, 2).isCut).toBe(false);
  });
});
