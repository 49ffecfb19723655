/** Number of positions in a page, which holds their keys and values in all layers. */
export const KV_PAGE_TOKENS = 16;
