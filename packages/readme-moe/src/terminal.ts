// Text for terminals: progress on the last line, tables, sizes and times.

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

/** Formats a size with three digits, such as `269 MB` or `1.50 GB`. */
export function sizeText(bytes: number): string {
  const [unit, name] = bytes >= 999.5e6 ? [1e9, "GB"] : bytes >= 999.5e3 ? [1e6, "MB"] : [1e3, "kB"];
  const value = bytes / unit;
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${name}`;
}

/** Formats a number of parameters, such as `135M` or `1.7B`. */
export function countText(count: number): string {
  return count >= 999.5e6 ? `${(count / 1e9).toFixed(1)}B` : `${Math.round(count / 1e6)}M`;
}

/** Formats a duration, such as `42 s`, `3 min` or `1 h 20 min`. */
export function durationText(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  if (whole < 100) return `${whole} s`;
  const minutes = Math.ceil(whole / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Formats a time of the local clock, such as `2026-03-14 09:26`. */
export function timeText(atMs: number): string {
  const at = new Date(atMs);
  const [month, day, hours, minutes] = [at.getMonth() + 1, at.getDate(), at.getHours(), at.getMinutes()].map((part) =>
    String(part).padStart(2, "0"),
  );
  return `${at.getFullYear()}-${month}-${day} ${hours}:${minutes}`;
}

/** Adds up the bytes of entries. */
export function bytesOf(entries: readonly { readonly bytes: number }[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes, 0);
}
