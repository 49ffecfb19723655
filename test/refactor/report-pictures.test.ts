import type { Document, Element } from "@xmldom/xmldom";
import { array, assert, constantFrom, integer, nat, oneof, property, record, string } from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { lossRow, type Report } from "../../packages/refactor/src/report/report.ts";
import { textWidth } from "../../packages/refactor/src/report/pictures/line-picture.ts";
import {
  lossesPicture,
  expertLossesPicture,
  overlapPicture,
  reportPictures,
} from "../../packages/refactor/src/report/pictures/report-pictures.ts";
import { routesPicture, wrapRoutes } from "../../packages/refactor/src/report/pictures/routes-picture.ts";
import { madeUpReport } from "../support/made-up-report.ts";
import { elementsOf, marksOf, parseSvg, textsOf, type ShownText } from "../support/svg.ts";

const NAMES = ["losses", "expert-losses", "routes", "overlap", "layer-errors"] as const;

/** Draws the pictures, which have to be well-formed XML, by name. */
async function drawn(report: Report): Promise<ReadonlyMap<string, Document>> {
  return new Map(
    (await reportPictures(report)).map(({ file, svg }) => {
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
      expect(svg.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cs}\u202A-\u202E]/u);
      return [file.replace(/^pictures\/|\.svg$/g, ""), parseSvg(svg)];
    }),
  );
}

/** Draws one picture alone. */
async function pictureOf(report: Report, name: (typeof NAMES)[number]): Promise<Document> {
  const others = { losses: [], expert_losses: undefined, router: undefined, overlap: undefined };
  const svg =
    name === "losses"
      ? lossesPicture(report)
      : name === "expert-losses"
        ? expertLossesPicture(report)
        : name === "routes"
          ? routesPicture(report)
          : name === "overlap"
            ? overlapPicture(report)
            : (await reportPictures({ ...report, ...others }))[0]?.svg;
  return parseSvg((await svg) ?? "");
}

function texts(document: Document | undefined): readonly string[] {
  return textsOf(document as Document).map(({ text }) => text);
}

describe.each([2, 7, 16])("with %i experts", (domains) => {
  const report = madeUpReport({ domains, layers: 2 * domains });

  test("draws all pictures, with all names", async () => {
    const pictures = await drawn(report);
    expect([...pictures.keys()]).toEqual(NAMES);
    const names = report.data.map(({ name }) => name);
    for (const picture of ["losses", "expert-losses", "overlap"]) {
      expect(texts(pictures.get(picture))).toEqual(expect.arrayContaining(names));
    }
    expect(texts(pictures.get("routes"))).toEqual(expect.arrayContaining(names));
    const methods = report.losses.filter(({ id }) => id !== "dense").map(({ label }) => label);
    expect(texts(pictures.get("losses"))).toEqual(expect.arrayContaining(methods));
  });

  test.each(NAMES)("says in title and description of %s what it shows", async (name) => {
    const picture = await pictureOf(report, name);
    const root = picture.documentElement as Element;
    const [title, description] = ["title", "desc"].map((part) => elementsOf(root, part)[0]?.textContent ?? "");
    expect(root.getAttribute("role")).toBe("img");
    expect(texts(picture)).toEqual(expect.arrayContaining([title, description]));
    expect(title).toMatch(/^\w.{10}/);
    expect(description).toMatch(/^\w.{10}/);
  });

  test("draws a bar for each cost, in proportion, and numbers beside those of the mean", async () => {
    const losses = await pictureOf(report, "losses");
    const methods = report.losses.filter(({ id }) => id !== "dense");
    const bars = marksOf(losses, "rect").map(({ path: [, , width = 0], fill }) => ({ width, fill }));
    expect(bars).toHaveLength(methods.length * (domains + 1));
    expect(new Set(bars.map(({ fill }) => fill)).size).toBe(methods.length);
    const means = bars.slice(0, methods.length).map(({ width }) => width);
    const [first = 1] = means;
    methods.forEach(({ above_dense: cost }, place) => {
      expect((means[place] ?? 0) / first).toBeCloseTo(cost / (methods[0]?.above_dense ?? 1), 2);
      expect(texts(losses)).toContain(`+${cost.toFixed(2)}`);
    });
  });

  test("draws a cell for each pair of expert and domain, and frames the best", async () => {
    const map = await pictureOf(report, "expert-losses");
    const cells = (report.expert_losses ?? []).flat();
    const rects = marksOf(map, "rect");
    const shades = rects.filter(({ fill }) => fill !== undefined && fill !== "none");
    expect(shades).toHaveLength(cells.length);
    expect(rects.filter((rect) => !shades.includes(rect)).length).toBeGreaterThanOrEqual(domains);
    const shown = texts(map);
    for (const loss of cells) expect(shown).toContain(loss.toFixed(2));
    // Equal losses of one domain have the same colour, and the best of each the lightest.
    const best = report.data.map((_, domain) => Math.min(...cells.filter((__, at) => at % domains === domain)));
    const lightest = shades.filter((__, at) => cells[at] === best[at % domains]).map(({ fill }) => fill);
    expect(new Set(lightest)).toEqual(new Set(["rgb(255, 245, 235)"]));
  });

  test("draws each layer's mean as a point, and a band around", async () => {
    const picture = await pictureOf(report, "layer-errors");
    const methods = new Set(report.layers.flatMap(({ relative_errors: errors }) => Object.keys(errors))).size;
    expect(marksOf(picture, "symbol")).toHaveLength(methods * report.layers.length);
    expect(marksOf(picture, "line")).toHaveLength(methods);
    expect(marksOf(picture, "area").map(({ path }) => path.length)).toEqual(
      Array.from({ length: methods }, () => 4 * report.layers.length),
    );
  });

  test("draws each token of a text in its expert's colour", async () => {
    const routes = await pictureOf(report, "routes");
    const colours = report.settings.experts.map((_, expert) => expert);
    const placed = (report.router?.samples ?? []).flatMap(({ pieces }) => wrapRoutes(pieces, 100, 4).tokens);
    const rects = marksOf(routes, "rect");
    expect(rects).toHaveLength(placed.length);
    const looks = rects.map(({ fill, stroke }) => `${fill} ${stroke}`);
    for (const expert of colours) {
      const own = new Set(looks.filter((_, at) => placed[at]?.expert === expert));
      const others = new Set(looks.filter((_, at) => placed[at]?.expert !== expert));
      expect(own.size).toBe(1);
      expect([...own].filter((look) => others.has(look))).toEqual([]);
    }
  });

  test.each(NAMES)("lets texts of %s overlap neither each other nor the edge", async (name) => {
    const picture = await pictureOf(report, name);
    const root = picture.documentElement as Element;
    const [width, height] = ["width", "height"].map((side) => Number(root.getAttribute(side))) as [number, number];
    const boxes = textsOf(picture)
      .filter(({ isTurned, text }) => !isTurned && text.trim() !== "")
      .map(boxOf);
    const outside = boxes.filter(
      ({ left, right, top, bottom }) => left < 0 || right > width || top < 0 || bottom > height,
    );
    const touching = boxes.flatMap((box, index) =>
      boxes
        .slice(index + 1)
        .filter((other) => box.left < other.right && other.left < box.right)
        .filter((other) => box.top < other.bottom && other.top < box.bottom)
        .map((other) => [box.text, other.text]),
    );
    expect({ outside, touching }).toEqual({ outside: [], touching: [] });
  });

  test.each(NAMES.filter((name) => name !== "routes"))("cuts no text of %s", async (name) => {
    expect(texts(await pictureOf(report, name)).join("")).not.toContain("…");
  });
});

/** Estimates the box of a text, with letters as wide as those of usual fonts. */
function boxOf({ text, x, y, size, anchor }: ShownText): {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly text: string;
} {
  const width = text.length * size * 0.55;
  const left = x - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
  return { left: left + 0.1, right: left + width - 0.1, top: y - 0.75 * size, bottom: y + 0.15 * size, text };
}

test("draws the same pictures for the same report", async () => {
  const pictures = await reportPictures(madeUpReport());
  expect(await reportPictures(madeUpReport())).toEqual(pictures);
  expect(await reportPictures(madeUpReport({ seed: 2 }))).not.toEqual(pictures);
});

test("draws no comparisons for one expert on one domain", async () => {
  expect([...(await drawn(madeUpReport({ domains: 1, layers: 1 }))).keys()]).toEqual([
    "losses",
    "routes",
    "layer-errors",
  ]);
});

test("leaves out figures that were not measured", async () => {
  const report = madeUpReport();
  const [dense, paper, ...others] = report.losses;
  const sparse = {
    ...report,
    expert_losses: undefined,
    overlap: undefined,
    router: undefined,
    layers: report.layers.map((layer) => ({ ...layer, relative_errors: {} })),
  };
  expect([...(await drawn({ ...sparse, losses: [dense as Report["losses"][0]] })).keys()]).toEqual([]);
  expect([...(await drawn({ ...sparse, losses: [] })).keys()]).toEqual([]);
  const partial = lossRow("free", 0.5, { github: 1.3 }, dense?.losses ?? {});
  const rest = texts(
    (await drawn({ ...sparse, losses: [dense, partial, ...others] as Report["losses"] })).get("losses"),
  );
  expect(rest).not.toContain(paper?.label);
  expect(rest).toContain("−0.12"); // better than dense
});

describe("text from outside", () => {
  const hostile = `<script>alert("1")</script>&amp;' \u0000\u0007\uD83C \u202E\u2028]]>`;
  const shown = `<script>alert("1")</script>&amp;' \uFFFD\uFFFD\uFFFD \uFFFD\u2028]]>`;

  test("is escaped everywhere", async () => {
    const report = madeUpReport({ domains: 2 });
    const [first, second] = report.data;
    const renamed = JSON.parse(
      JSON.stringify(report, (key, value: unknown) =>
        value === first?.name ? hostile : key === "label" ? hostile : value,
      ),
    ) as Report;
    const documents = await drawn({
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
      expect(elementsOf(document, "script")).toEqual([]);
      if (name !== "layer-errors") expect(document.documentElement?.textContent).toContain(shown.slice(0, 20));
    }
    const routes = texts(documents.get("routes")).join("");
    expect(routes).toContain(shown.replaceAll(" ", "\u00A0").replace("\u2028", "↵"));
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
        const { tokens, isCut } = wrapRoutes(pieces, width, Infinity);
        expect(isCut).toBe(false);
        let [line, column] = [0, 0];
        for (const token of tokens) {
          if (token.line > line) [line, column] = [line + 1, 0];
          expect(token).toMatchObject({ line, column, columns: Math.round(textWidth(token.text, 1) / 0.58) });
          column += token.columns;
          expect(column).toBeLessThanOrEqual(width);
        }
        for (const expert of [0, 1, 2, 3]) {
          const own = tokens.filter((token) => token.expert === expert).map(({ text }) => text);
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
    expect(wrapRoutes(pieces, 10, 10).tokens.map(({ line, column, text }) => [line, column, text])).toStrictEqual([
      [0, 0, "One"],
      [0, 3, "\u00A0two"],
      [1, 0, "\u00A0three"],
      [1, 6, "↵"],
      [1, 7, "↵"],
      [2, 0, "four"],
    ]);
  });

  test("end at the largest number of lines", () => {
    const pieces = ["one", " two", " six"].map((text, expert) => ({ text, expert }));
    expect(wrapRoutes(pieces, 5, 2)).toMatchObject({ isCut: true, tokens: [{ expert: 0 }, { expert: 1 }] });
    expect(wrapRoutes(pieces.slice(0, 2), 5, 2).isCut).toBe(false);
  });
});
