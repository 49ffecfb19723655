type Arrival<Item> =
  | { readonly source: number; readonly result: IteratorResult<Item> }
  | { readonly source: number; readonly error: unknown };

/**
 * The items of several sources, as they come. Ends all sources when one fails or the reader leaves.
 *
 * @param onFailed - told which source failed, before its error is thrown
 * @returns pairs of an item and its source's index
 */
export async function* merge<Item>(
  sources: readonly AsyncIterator<Item>[],
  onFailed: (source: number) => void,
): AsyncGenerator<readonly [source: number, item: Item], void, undefined> {
  // No race of promises: a source that is silent for long would keep a note of every item of the others.
  const arrived: Arrival<Item>[] = [];
  let wake: (() => void) | undefined;
  const ask = async (source: number): Promise<void> => {
    try {
      arrived.push({ source, result: await (sources[source] as AsyncIterator<Item>).next() });
    } catch (error) {
      arrived.push({ source, error });
    }
    wake?.();
  };
  for (const source of sources.keys()) void ask(source);
  try {
    for (let numOpen = sources.length; numOpen > 0;) {
      const arrival = arrived.shift();
      if (!arrival) {
        await new Promise<void>((resolve) => (wake = resolve));
        continue;
      }
      if ("error" in arrival) {
        onFailed(arrival.source);
        throw arrival.error;
      }
      const { source, result } = arrival;
      if (result.done) {
        numOpen--;
        continue;
      }
      void ask(source);
      yield [source, result.value];
    }
  } finally {
    await Promise.allSettled(sources.map(async (source) => source.return?.()));
  }
}
