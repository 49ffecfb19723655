// A block of code with its language, its colours and a button that copies it.

import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { CopyButton } from "./copy-button.tsx";

/** Longer code has no colours. */
const MAX_CHARACTERS = 30_000;

export interface CodeBlockProps {
  readonly code: string;
  /** Name of the language, as the model wrote it. */
  readonly language: string;
}

export function CodeBlock({ code, language }: CodeBlockProps): JSX.Element {
  const place = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    element.textContent = code;
    if (language === "" || code.length > MAX_CHARACTERS) return undefined;
    const state = { isCurrent: true };
    const colour = async (): Promise<void> => {
      const { highlighted } = await import("./highlight.ts");
      const coloured = state.isCurrent ? highlighted(code, language) : undefined;
      if (coloured) element.replaceChildren(coloured);
    };
    // Without the colours' code, the text stays as it is.
    colour().catch(() => undefined);
    return () => {
      state.isCurrent = false;
    };
  }, [code, language]);
  return (
    <div class="code">
      <header>
        <span>{language === "" ? "Text" : language}</span>
        <CopyButton text={code} of="this code" />
      </header>
      {/* A region that keys can scroll. */}
      <pre tabIndex={0} role="region" aria-label={language === "" ? "Code" : `Code in ${language}`}>
        <code ref={place} />
      </pre>
    </div>
  );
}
