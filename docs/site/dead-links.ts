// Links within the built site that lead nowhere, with places on pages, which VitePress does not check.

import { posix } from "node:path";

/**
 * Returns links whose page, file or place does not exist, as `page: link`.
 *
 * @param pages - HTML by path within the site
 * @param files - paths of all files of the site
 * @param base - path that the site is served below, such as `/`
 */
export function deadLinks(
  pages: ReadonlyMap<string, string>,
  files: ReadonlySet<string>,
  base: string,
): readonly string[] {
  const places = new Map(Array.from(pages, ([path, html]) => [path, valuesOf(html, "id")]));
  return [...pages].flatMap(([page, html]) =>
    [...valuesOf(html, "href")]
      .filter((href) => !/^[a-z][a-z+.-]*:|^\/\//i.test(href))
      .filter((href) => {
        const [file = "", place = ""] = href.split("#");
        const path = pathOf(page, file, base);
        if (path === undefined || !files.has(path)) return true;
        return place !== "" && places.get(path)?.has(decodeURIComponent(place)) === false;
      })
      .map((href) => `${page}: ${href}`),
  );
}

/** Returns the file that a link leads to, or nothing if it leads out of the site. */
function pathOf(page: string, file: string, base: string): string | undefined {
  if (file === "") return page;
  const isAbsolute = file.startsWith("/");
  if (isAbsolute && !file.startsWith(base)) return undefined;
  const path = isAbsolute ? file.slice(base.length) : posix.join(posix.dirname(page), file);
  const whole = path === "" || path === "." || path.endsWith("/") ? posix.join(path, "index.html") : path;
  return decodeURIComponent(posix.extname(whole) === "" ? `${whole}.html` : whole);
}

function valuesOf(html: string, attribute: "href" | "id"): ReadonlySet<string> {
  return new Set(
    Array.from(html.matchAll(new RegExp(`\\s${attribute}="([^"]*)"`, "g")), ([, value = ""]) =>
      value.replaceAll("&amp;", "&"),
    ),
  );
}
