/** Several constants are made of one weight: it is read once, and let go after the last of them. */
export function onceFor<Result>(uses: number, read: () => Promise<Result>): () => Promise<Result> {
  let left = 0;
  let reading: Promise<Result> | undefined;
  return () => {
    const current = reading ?? read();
    left = reading ? left - 1 : uses - 1;
    reading = left > 0 ? current : undefined;
    return current;
  };
}
