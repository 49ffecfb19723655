// Imports files one after the other, and tells its parent how each went: programs of one page.

import { inspect } from "node:util";

export interface BlockResult {
  readonly file: string;
  readonly error?: string | undefined;
}

const files = process.argv.slice(2);
let current = files[0] ?? "";

const tell = (error: string | undefined, then: () => void): void => {
  process.send?.({ file: current, error } satisfies BlockResult, then);
};

const giveUp = (error: unknown): void => tell(inspect(error), () => process.exit(1));
process.on("uncaughtException", giveUp).on("unhandledRejection", giveUp);

for (const file of files) {
  current = file;
  const error = await import(file).then(() => undefined, inspect);
  await new Promise<void>((resolve) => tell(error, resolve));
}
// Engines and servers that programs leave open end with their process.
process.exit(0);
