// What is opened when somebody needs it: of a run that goes on, what a results folder has kept needs nothing opened again.

export interface Lazy<Value> extends AsyncDisposable {
  /** The same for all who ask. */
  readonly value: () => Promise<Value>;
}

export function lazily<Value extends AsyncDisposable>(open: () => Promise<Value>): Lazy<Value> {
  let opening: Promise<Value> | undefined;
  return {
    value: () => (opening ??= open()),
    async [Symbol.asyncDispose]() {
      await opening?.then(
        (value) => value[Symbol.asyncDispose](),
        () => undefined, // whoever asked for it was told why it did not open
      );
    },
  };
}
