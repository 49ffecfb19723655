// Figures and foreign text, as they are written in sentences, tables, pictures and Markdown.

/** Writes a number with `digits` decimals; zero has no sign. */
export function decimals(value: number, digits = 2): string {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** Writes a difference with its sign; zero has none. */
export function signed(value: number, digits: number): string {
  const text = decimals(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text.replace("-", "−");
}

/** Writes a share in [0, 1] in per cent. */
export function percent(share: number): string {
  return `${decimals(share * 100, 0)} %`;
}

/** Writes a number with separators for thousands. */
export function grouped(count: number): string {
  return `${Math.round(count)}`.replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** Writes a large number with three leading digits: `6.89 million`. */
export function rounded(count: number): string {
  for (const [unit, name] of [
    [1e9, "billion"],
    [1e6, "million"],
  ] as const) {
    if (count >= unit) return `${(count / unit).toPrecision(3)} ${name}`;
  }
  return grouped(count);
}

export function duration(ms: number): string {
  if (ms < 60_000) return `${decimals(ms / 1000, ms < 10_000 ? 1 : 0)} s`;
  const minutes = Math.floor(ms / 60_000);
  const seconds = Math.floor((ms % 60_000) / 1000);
  return minutes < 60 ? `${minutes} min ${seconds} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  return count < 1e9 ? `${decimals(count / 1e6, 0)} MB` : `${decimals(count / 1e9)} GB`;
}

/** Lists words: `"a, b and c"`. */
export function listed(words: readonly string[]): string {
  const last = words.at(-1) ?? "";
  return words.length < 2 ? last : `${words.slice(0, -1).join(", ")} and ${last}`;
}

/** Escapes text from outside, such as names, as one line of plain Markdown. Underscores within words stay. */
export function markdownText(text: string): string {
  return oneLine(text)
    .replace(/[\\`*[\]<>|~$]|&(?=[\w#]+;)|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])/gu, "\\$&")
    .replace(/^(\d*)(?=[#+\-=.)])/u, "$1\\");
}

/** Writes text as code, with as many backticks around it as necessary; also within tables. */
export function markdownCode(text: string): string {
  const line = oneLine(text).replaceAll("|", "\\|");
  const longest = Math.max(0, ...Array.from(line.matchAll(/`+/g), ([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  const pad = longest > 0 || line === "" ? " " : "";
  return `${fence}${pad}${line}${pad}${fence}`;
}

/** Writes a table of cells that are Markdown. Columns of numbers are aligned to the right. */
export function markdownTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const numeric = header.map((_, column) =>
    rows.every((row) => /^(?:\*\*)?[+−]?[\d.,]+(?: %)?(?:\*\*)?$|^–$/.test(row[column] ?? "")),
  );
  const rule = numeric.map((isNumeric) => (isNumeric ? "--:" : "---"));
  return [header, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]+/gu, " ").trim();
}
