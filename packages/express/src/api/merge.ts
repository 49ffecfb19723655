// One iteration over several.

type Arrival<Item> =
  | { readonly source: AsyncIterator<Item>; readonly result: IteratorResult<Item> }
  | { readonly error: unknown };

/** Merges the items of several sources in the order of their arrival. Fails as soon as one source fails. */
export async function* merge<Item>(sources: readonly AsyncIterator<Item>[]): AsyncGenerator<Item, void, undefined> {
  // `Promise.race` would keep a reference to every item for as long as one source is silent.
  const arrived: Arrival<Item>[] = [];
  let wake: (() => void) | undefined;
  const ask = async (source: AsyncIterator<Item>): Promise<void> => {
    try {
      arrived.push({ source, result: await source.next() });
    } catch (error) {
      arrived.push({ error });
    }
    wake?.();
  };
  for (const source of sources) void ask(source);
  for (let numOpen = sources.length; numOpen > 0;) {
    const arrival = arrived.shift();
    if (!arrival) {
      await new Promise<void>((resolve) => (wake = resolve));
      continue;
    }
    if ("error" in arrival) throw arrival.error;
    if (arrival.result.done) {
      numOpen--;
      continue;
    }
    void ask(arrival.source);
    yield arrival.result.value;
  }
}
