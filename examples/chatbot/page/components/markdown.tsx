// Shows Markdown of a model. It is not trusted: everything that could run, load or imitate the page is removed.

import DOMPurify from "dompurify";
import { Marked } from "marked";
import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

/** Longer texts are shown as plain text. */
const MAX_CHARACTERS = 60_000;

const ALLOWED_TAGS =
  "p br hr h1 h2 h3 h4 h5 h6 blockquote pre code em strong del ul ol li table thead tbody tr th td a".split(" ");

// HTML tags are shown as text. So are pictures, which would reveal the reader to their servers.
const markdown = new Marked({
  gfm: true,
  breaks: true,
  renderer: { html: ({ text }) => escaped(text), image: ({ raw }) => escaped(raw) },
});

export function Markdown({ text }: { readonly text: string }): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    place.current?.replaceChildren(rendered(text));
  }, [text]);
  return <div class="markdown" ref={place} />;
}

function rendered(text: string): Node {
  if (text.length > MAX_CHARACTERS) return plain(text);
  const html = markdown.parse(text, { async: false });
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
  for (const block of fragment.querySelectorAll("pre")) {
    // Makes long lines scrollable with keys.
    block.tabIndex = 0;
    block.setAttribute("role", "region");
    block.setAttribute("aria-label", "Code");
  }
  return fragment;
}

function plain(text: string): Node {
  const block = document.createElement("p");
  block.className = "plain";
  block.textContent = text;
  return block;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
