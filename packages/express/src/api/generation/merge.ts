/**
 * The items of several sources, as they come. Ends all sources when one fails or the reader leaves.
 *
 * @returns pairs of an item and its source's index
 */
export async function* merge<Item>(
  sources: readonly AsyncIterator<Item>[],
): AsyncGenerator<readonly [source: number, item: Item], void, undefined> {
  const next = async (source: number): Promise<readonly [number, IteratorResult<Item>]> => [
    source,
    await (sources[source] as AsyncIterator<Item>).next(),
  ];
  const waiting = new Map(sources.map((_, source) => [source, next(source)]));
  // A source that fails after the reader has left fails for nobody.
  for (const promise of waiting.values()) promise.catch(() => undefined);
  try {
    while (waiting.size > 0) {
      const [source, { done, value }] = await Promise.race(waiting.values());
      if (done) {
        waiting.delete(source);
        continue;
      }
      const following = next(source);
      following.catch(() => undefined);
      waiting.set(source, following);
      yield [source, value];
    }
  } finally {
    await Promise.allSettled(sources.map(async (source) => source.return?.()));
  }
}
