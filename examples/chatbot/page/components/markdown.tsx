// Shows Markdown of a model. It is not trusted: everything that could run, load or imitate the page is removed.

import DOMPurify from "dompurify";
import { Marked, type Token } from "marked";
import { memo } from "preact/compat";
import type { FunctionComponent, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { CodeBlock } from "./code-block.tsx";

/** Longer texts are shown as plain text. */
const MAX_CHARACTERS = 60_000;

const ALLOWED_TAGS =
  "p br hr h3 h4 h5 h6 blockquote pre code em strong del ul ol li table thead tbody tr th td a".split(" ");
/** Headings of an answer stand below those of the page. */
const TOP_HEADING = 3;

// HTML tags are shown as text. So are pictures, which would reveal the reader to their servers.
const markdown = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ raw }) => escaped(raw),
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + TOP_HEADING - 1);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

export function Markdown({ text }: { readonly text: string }): JSX.Element {
  if (text.length > MAX_CHARACTERS) return <p class="markdown plain">{text}</p>;
  const blocks = markdown.lexer(text).filter(({ type }) => type !== "space" && type !== "def");
  return (
    <div class="markdown">
      {blocks.map((block, index) =>
        block.type === "code" ? (
          <CodeBlock key={index} code={String(block["text"])} language={languageOf(block)} />
        ) : (
          <Block key={index} html={markdown.parser([block])} />
        ),
      )}
    </div>
  );
}

/** A part of a text. While an answer streams, only its last part changes. */
const Block: FunctionComponent<{ readonly html: string }> = memo(({ html }) => {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    place.current?.replaceChildren(cleaned(html));
  }, [html]);
  return <div ref={place} />;
});

function cleaned(html: string): Node {
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR: ["href", "start"],
    ALLOWED_URI_REGEXP: /^https?:/i,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  for (const [selector, name] of [
    ["pre", "Code"],
    ["table", "Table"],
  ] as const) {
    for (const wide of fragment.querySelectorAll(selector)) scrollWithKeys(wide as HTMLElement, name);
  }
  return fragment;
}

/** Puts wide content into a region that keys can scroll. */
function scrollWithKeys(wide: HTMLElement, name: string): void {
  const region = document.createElement("div");
  region.className = "wide-content";
  region.tabIndex = 0;
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", name);
  wide.replaceWith(region);
  region.append(wide);
}

/** Returns the first word after the fence, such as `ts`. */
function languageOf(block: Token): string {
  const { lang } = block as { readonly lang?: string };
  return /^[\w+#.-]{1,24}/.exec(lang ?? "")?.[0].toLowerCase() ?? "";
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
