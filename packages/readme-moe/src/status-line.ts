/** One line on a terminal, which the next one replaces; nothing clears it. Silent where there is no terminal. */
export function showStatus(text = ""): void {
  // Back to the line's start, and clear it.
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text}`);
}
