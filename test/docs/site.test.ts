// The site that `npm run docs:site` builds, as far as it can be told without building it.

import { describe, expect, test } from "vitest";
import { deadLinks } from "../../docs/site/dead-links.ts";
import { homePage, plainText, withDescription } from "../../docs/site/front-matter.ts";
import { adaptMarkdown, type MarkdownIt } from "../../docs/site/markdown.ts";
import { pagePathOf, picturePathOf, sidebarOf, siteLinkOf, type SitePlace } from "../../docs/site/pages.ts";
import { sitePictures, siteSources } from "../../docs/site/sources.ts";
import { linksOf, pages, proseOf, readPage } from "../support/docs/markdown.ts";

const place: SitePlace = { sources: new Set(siteSources()), repository: undefined };
const paths = new Set([...place.sources].map((source) => `/${pagePathOf(source)}`));

test("all pages of docs, README.md and the packages' own are on the site, each under a path of its own", () => {
  expect([...place.sources]).toEqual(expect.arrayContaining([...pages()]));
  expect(paths.size).toBe(place.sources.size);
});

test.each([
  ["README.md", "docs/express.md#figures", { href: "/express.md#figures" }],
  ["README.md", "docs/images/a.png", { href: "/images/a.png" }],
  ["docs/how-to/models.md", "../images/a.svg", { href: "/images/a.svg" }],
  ["models/m/README.md", "pictures/a.svg", { href: "/images/models/m/pictures/a.svg" }],
  ["docs/how-to/models.md", "../README.md", { href: "/contents.md" }],
  ["docs/fleet.md", "../README.md#start", { href: "/index.md#start" }],
  ["docs/fleet.md", "../examples/fleet", { href: "/examples/fleet/index.md" }],
  ["docs/fleet.md", "../examples/fleet/compose.yaml", { name: "examples/fleet/compose.yaml" }],
  ["docs/fleet.md", "#start", { href: "#start" }],
  ["docs/fleet.md", "https://docs.bullmq.io", { href: "https://docs.bullmq.io" }],
])("a link of %s to %s", (source, href, expected) => {
  expect(siteLinkOf(source, href, place)).toEqual(expected);
});

test("files that are no pages are linked in the repository, where it is known", () => {
  const link = siteLinkOf("docs/fleet.md", "../examples/fleet/compose.yaml", {
    ...place,
    repository: "https://example.org/us/it/blob/main/",
  });
  expect(link).toEqual({ href: "https://example.org/us/it/blob/main/examples/fleet/compose.yaml" });
});

test("indented code is written as fenced code, which scrolls on a narrow screen", () => {
  let change: Parameters<MarkdownIt["core"]["ruler"]["push"]>[1] | undefined;
  adaptMarkdown(place)({ core: { ruler: { push: (_, rule) => (change = rule) } }, renderer: { rules: {} } });
  const token = { type: "code_block", tag: "code", info: "", content: "npm start\n", children: null, attrs: null };
  const tokens = [{ ...token, attrGet: () => null, attrSet: () => undefined }];
  change?.({ tokens, env: { relativePath: "express.md" } });
  expect(tokens[0]?.type).toBe("fence");
});

test("every link between pages leads to a page or a picture", () => {
  const known = new Set([...paths, ...sitePictures().map((picture) => `/${picturePathOf(picture)}`)]);
  for (const source of place.sources) {
    for (const { target } of linksOf(source)) {
      const link = siteLinkOf(source, target, place);
      if (!("href" in link) || !link.href.startsWith("/")) continue;
      const [path = ""] = link.href.split("#");
      expect(known, `${source}: ${target}`).toContain(path);
    }
  }
});

test("no line of a page is read as an element or an expression of Vue", () => {
  for (const source of place.sources) {
    for (const line of proseOf(source).split("\n")) {
      expect(line, source).not.toMatch(/^\s*<\/?[a-z]/i);
      expect(line.replaceAll(/`[^`]*`/g, ""), source).not.toContain("{{");
    }
  }
});

test("the sidebar has the pages of docs/README.md in its order", () => {
  const groups = sidebarOf(readPage("docs/README.md"), place);
  expect(groups.map(({ text }) => text)).toEqual(["Start", "How to", "Reference", "In depth", "Development"]);
  const links = groups.flatMap(({ items }) => items.map(({ link }) => link));
  expect(links.slice(0, 2)).toEqual(["/index.md", "/is-it-for-me.md"]);
  const docs = [...paths].filter((path) => place.sources.has(`docs${path}`));
  expect(docs.filter((path) => !links.includes(path))).toEqual([]);
});

describe("above pages", () => {
  test("the home page has README.md's first lines and the rest below", () => {
    const home = homePage(readPage("README.md"));
    const [, matter = "", body = ""] = home.split(/^---$/m);
    const data = Object.fromEntries(
      matter
        .trim()
        .split("\n")
        .map((line) => [line.slice(0, line.indexOf(":")), JSON.parse(line.slice(line.indexOf(":") + 1)) as unknown]),
    );
    expect(data).toMatchObject({ layout: "home", hero: { name: "readme-moe" } });
    expect((data["features"] as readonly { title: string; details: string }[]).length).toBeGreaterThan(4);
    for (const { title, details } of data["features"] as readonly { title: string; details: string }[]) {
      expect(title, details).toMatch(/^\S.*[^.]$/);
      expect(details).toMatch(/\.$/);
    }
    expect(body).toContain("## Start");
  });

  test("a README that begins otherwise is refused", () => {
    expect(() => homePage("# a\n\n## b\n")).toThrow("Expected README.md to begin with");
  });

  test("descriptions are the beginning of the first paragraph", () => {
    expect(withDescription("# A\n\nOne *two* [three](x.md) `four`.\n\nFive.")).toContain(
      'description: "One two three four."',
    );
    expect(plainText("**a** _b_ snake_case_name `--c`")).toBe("a b snake_case_name --c");
    for (const source of place.sources) {
      const [, description = ""] = /^description: (.*)$/m.exec(withDescription(readPage(source))) ?? [];
      expect((JSON.parse(description) as string).length, source).toBeLessThanOrEqual(162);
    }
  });
});

test("links of built pages that lead nowhere are found", () => {
  const built = new Map([
    ["index.html", '<a href="/base/a/b.html#there">x</a><a href="./a/b.html"></a><a href="#none"></a>'],
    [
      "a/b.html",
      '<h2 id="there"></h2><a href="../index.html"></a><a href="../c"></a><a href="/base/a/b.html#away"></a>',
    ],
    ["d.html", '<a href="/base/"></a><a href="/other/x.html"></a><a href="https://example.org/x"></a>'],
  ]);
  expect(deadLinks(built, new Set(built.keys()), "/base/")).toEqual([
    "index.html: #none",
    "a/b.html: ../c",
    "a/b.html: /base/a/b.html#away",
    "d.html: /other/x.html",
  ]);
});
