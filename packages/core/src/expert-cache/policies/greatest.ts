/** The first item that no other one exceeds. @param items - at least one */
export function greatest<Item>(items: readonly Item[], exceeds: (a: Item, b: Item) => boolean): Item {
  return items.reduce((best, item) => (exceeds(item, best) ? item : best));
}
