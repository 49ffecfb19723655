// Opens resources on first use. A resumed run opens nothing for results that its folder already has.

export interface Lazy<Value> extends AsyncDisposable {
  /** Returns the same resource to all callers. */
  readonly value: () => Promise<Value>;
}

export function lazily<Value extends AsyncDisposable>(open: () => Promise<Value>): Lazy<Value> {
  let opening: Promise<Value> | undefined;
  return {
    value: () => (opening ??= open()),
    async [Symbol.asyncDispose]() {
      await opening?.then(
        (value) => value[Symbol.asyncDispose](),
        () => undefined, // the caller that opened it has received the error
      );
    },
  };
}
