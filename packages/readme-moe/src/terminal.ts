// Progress on a terminal's last line, and results as lines of text.

/** Shows a line on a terminal in place of the one before; an empty text clears it. Does nothing without a terminal. */
export function showStatus(text = ""): void {
  // Returns to the start of the line and clears it.
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text}`);
}

/** Formats a side note for standard error: dim where colours are wanted (`NO_COLOR`, `FORCE_COLOR`, `TERM`). */
export function dimmed(text: string): string {
  return process.stderr.isTTY && process.stderr.hasColors() ? `\u001B[2m${text}\u001B[22m` : text;
}

/** Writes a share in per cent, without the sign, as columns have it. */
export function percent(share: number): string {
  return (100 * share).toFixed(1);
}

/** A column of a table: its title, the text of a row in it, and its side. */
export type Column<Row> = readonly [title: string, of: (row: Row) => string, side?: "left" | "right"];

/** Formats rows as lines below a head, with columns aligned on the right unless they say otherwise. */
export function alignedTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): readonly string[] {
  const cells = columns.map(([title, of]) => [title, ...rows.map(of)]);
  const padded = cells.map((column, index) => {
    const width = Math.max(...column.map((cell) => cell.length));
    const isLeft = columns[index]?.[2] === "left";
    return column.map((cell) => (isLeft ? cell.padEnd(width) : cell.padStart(width)));
  });
  const lines = Array.from({ length: rows.length + 1 }, (_, line) => padded.map((column) => column[line] ?? ""));
  return lines.map((line) => line.join("  ").trimEnd());
}

/** Formats a number with its sign and four digits, such as `+0.0125`. */
export function signed(value: number): string {
  return `${value < 0 ? "-" : "+"}${Math.abs(value).toFixed(4)}`;
}
