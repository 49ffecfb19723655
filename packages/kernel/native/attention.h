// Attention of some queries over the pages of one sequence, in tiles of positions. A tile gives a query its largest
// score, sums of exponentials in 16 lanes, and sums of values in the order of positions; tiles are joined in their
// order. So a query's numbers depend on what it sees alone, not on the queries beside it or on who computes a tile.

enum { TILE_PAGES = ATTEND_TILE / PAGE_TOKENS };

/** Keeps sums in registers: the compiler would leave large loops over them as they are. */
#define UNROLL _Pragma("clang loop unroll(full)")

/** Score of positions that a query does not see. */
#define UNSEEN (-3e38f)

/** One tile: its first position, its pages, those of the next tile that are prefetched, and the end of these. */
typedef struct {
  int start;
  const uint8_t *pages[TILE_PAGES], *ahead[TILE_PAGES];
  int numAhead;
  /** Scales of a page's keys, behind which are those of its values; NULL without scales. */
  const float *scales[TILE_PAGES];
} KeyTile;

INLINE Floats load_cached(const uint8_t *p, size_t index, const KvType type) {
  if (type == KV_BYTE) return load_signed(p + index);
  return type == KV_HALF ? load_halves((const uint16_t *)p + index) : load((const float *)p + index);
}

/** Finds the scales of a page's keys and values, behind these. */
INLINE float *head_scales(HeadPages pages, const uint8_t *page) {
  return (float *)(uintptr_t)(page + (size_t)2 * PAGE_TOKENS * (size_t)(pages.paddedSize * kv_bytes(pages.type)));
}

INLINE int position_of(const Attention *a, int query) { return a->position + query / a->perRow; }

/** Returns the end of the positions that a query sees. */
INLINE int seen_end(const Attention *a, int query) {
  int end = position_of(a, query) + a->ahead + 1;
  return end < a->end ? end : a->end;
}

INLINE int first_position(const Attention *a, int query) {
  int position = position_of(a, query);
  return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

/**
 * Computes scores of N queries `[headSize][N]` for P pages from `page` on. Prefetches these pages' values and the next
 * pages' keys when they are read for the first time.
 */
INLINE void score_pages(const Attention *a, const KeyTile *tile, const float *queries, int page, int endPage, int isFirst, const int N, const int P,
                        const KvType type) {
  Floats sums[ATTEND_QUERIES][4], scales[4];
  const uint8_t *keys[4], *nextKeys[4];
  const int rowBytes = PAGE_TOKENS * kv_bytes(type);
  UNROLL for (int p = 0; p < P; p++) {
    keys[p] = tile->pages[page + p];
    nextKeys[p] = tile->pages[page + P + p < endPage ? page + P + p : endPage - 1];
  }
  UNROLL for (int n = 0; n < N; n++)
    UNROLL for (int p = 0; p < P; p++) sums[n][p] = splat(0);
  for (int d = 0; d < a->pages.headSize; d++) {
    Floats key[4];
    if (isFirst && d * rowBytes % 64 == 0)
      UNROLL for (int p = 0; p < P; p++) {
        __builtin_prefetch(nextKeys[p] + d * rowBytes);
        __builtin_prefetch(keys[p] + (a->pages.paddedSize + d) * rowBytes, 0, 2);
      }
    UNROLL for (int p = 0; p < P; p++) key[p] = load_cached(keys[p], (size_t)d * PAGE_TOKENS, type);
    UNROLL for (int n = 0; n < N; n++) {
      Floats input = splat(queries[d * N + n]);
      UNROLL for (int p = 0; p < P; p++) sums[n][p] = add(sums[n][p], mul(input, key[p]));
    }
  }
  UNROLL for (int p = 0; p < P; p++) {
    const float *own = tile->scales[page + p];
    scales[p] = own ? mul(load(own), splat(a->scale)) : splat(a->scale);
  }
  UNROLL for (int n = 0; n < N; n++)
    UNROLL for (int p = 0; p < P; p++) store(a->room.scores + n * ATTEND_TILE + (page + p) * PAGE_TOKENS, mul(sums[n][p], scales[p]));
}

/**
 * Turns a query's scores into weights, 0 for positions that it does not see; writes their sums and the largest score.
 * Weights are then multiplied by the scales of values.
 */
static NOINLINE void weigh(const Attention *a, const KeyTile *tile, int query, float *scores, int firstPage, int endPage, float *sums) {
  int from = first_position(a, query) - tile->start, to = seen_end(a, query) - tile->start;
  const float *distances = a->distances ? a->distances + (size_t)(query % a->perRow) * a->distancesStride + tile->start - position_of(a, query) : NULL;
  Floats largest = splat(UNSEEN);
  for (int page = firstPage; page < endPage; page++) {
    int start = page * PAGE_TOKENS;
    Floats score = load(scores + start);
    int isCut = start < from || start + PAGE_TOKENS > to;
    if (a->cap > 0) score = capped(score, splat(a->cap));
    if (distances) score = add(score, load(distances + start));
    if (isCut) score = keep_lanes(score, from - start, to - start, UNSEEN);
    if (distances || isCut || a->cap > 0) store(scores + start, score);
    largest = larger(largest, score);
  }
  Floats top = splat(largest_lane(largest)), sum = splat(0);
  for (int page = firstPage; page < endPage; page++) {
    Floats score = load(scores + page * PAGE_TOKENS);
    Floats weight = keep_above(score, UNSEEN, exponential(sub(score, top)));
    const float *own = tile->scales[page];
    store(scores + page * PAGE_TOKENS, own ? mul(weight, load(own + PAGE_TOKENS)) : weight);
    sum = add(sum, weight);
  }
  store(sums, sum);
  store(sums + 16, top);
}

/** Sums values `[16 * vector, 16 * (vector + C))` of positions `[from, to)` of a tile for N queries; prefetches the next tile's keys. */
INLINE void add_values(const Attention *a, const KeyTile *tile, int vector, int from, int to, float *results, int isFirst, const int N, const int C,
                       const KvType type) {
  const int bytes = kv_bytes(type);
  Floats sums[ATTEND_QUERIES][4];
  UNROLL for (int n = 0; n < N; n++)
    UNROLL for (int c = 0; c < C; c++) sums[n][c] = splat(0);
  for (int page = from / PAGE_TOKENS; page * PAGE_TOKENS < to; page++) {
    const uint8_t *values = tile->pages[page] + (size_t)a->pages.paddedSize * PAGE_TOKENS * bytes;
    const uint8_t *ahead = isFirst && page < tile->numAhead ? tile->ahead[page] : NULL;
    const float *weights = a->room.scores + page * PAGE_TOKENS;
    int start = page * PAGE_TOKENS;
    int first = from > start ? from - start : 0, end = to - start < PAGE_TOKENS ? to - start : PAGE_TOKENS;
    for (int t = first; t < end; t++) {
      size_t index = (size_t)t * a->pages.paddedSize + 16 * vector;
      Floats value[4];
      if (ahead)
        for (int i = 0; i < C * 16 * bytes; i += 64) __builtin_prefetch(ahead + index * bytes + i, 0, 2);
      UNROLL for (int c = 0; c < C; c++) value[c] = load_cached(values, index + 16 * c, type);
      UNROLL for (int n = 0; n < N; n++) {
        Floats weight = splat(weights[n * ATTEND_TILE + t]);
        UNROLL for (int c = 0; c < C; c++) sums[n][c] = add(sums[n][c], mul(weight, value[c]));
      }
    }
  }
  UNROLL for (int n = 0; n < N; n++)
    UNROLL for (int c = 0; c < C; c++) store(results + n * (a->pages.paddedSize + TILE_SUMS) + 16 * (vector + c), sums[n][c]);
}

/** Attends with N queries from `query` on over one tile, W pages or vectors of values at a time. */
INLINE void attend_group(const Attention *a, const KeyTile *tile, int query, float *results, int isFirst, const int N, const int W, const KvType type) {
  const int size = a->pages.paddedSize, stride = size + TILE_SUMS;
  int from = first_position(a, query) - tile->start, to = seen_end(a, query + N - 1) - tile->start;
  if (from < 0) from = 0;
  if (to > ATTEND_TILE) to = ATTEND_TILE;
  if (from >= to) {
    memset(results, 0, (size_t)N * stride * 4);
    for (int n = 0; n < N; n++) results[n * stride + size + 16] = UNSEEN;
    return;
  }
  const float *queries = a->room.queries + (size_t)query * a->pages.headSize;
  int firstPage = from / PAGE_TOKENS, endPage = (to + PAGE_TOKENS - 1) / PAGE_TOKENS, page = firstPage, vector = 0;
  for (; page + W <= endPage; page += W) score_pages(a, tile, queries, page, endPage, isFirst, N, W, type);
  for (; W > 1 && page < endPage; page++) score_pages(a, tile, queries, page, endPage, isFirst, N, 1, type);
  for (int n = 0; n < N; n++) weigh(a, tile, query + n, a->room.scores + n * ATTEND_TILE, firstPage, endPage, results + n * stride + size);
  for (; vector + W <= size / 16; vector += W) add_values(a, tile, vector, from, to, results, isFirst, N, W, type);
  for (; W > 1 && vector < size / 16; vector++) add_values(a, tile, vector, from, to, results, isFirst, N, 1, type);
}

/** Adds a later tile's numbers of one query: both parts are scaled to the larger of their largest scores. */
static NOINLINE void join_tile(float *total, const float *tile, int size) {
  float top = total[size + 16], other = tile[size + 16];
  Floats less = exponential(splat(top < other ? top - other : other - top));
  Floats own = top < other ? less : splat(1), added = other < top ? less : splat(1);
  for (int i = 0; i < size + 16; i += 16) store(total + i, add(mul(load(total + i), own), mul(load(tile + i), added)));
  if (top < other) total[size + 16] = other;
}

static void join_tiles(float *results, size_t tileStride, int32_t numTiles, int32_t size, const float *sink) {
  for (int i = 1; i < numTiles; i++) join_tile(results, results + (size_t)i * tileStride, size);
  float sum = sum_lanes(load(results + size)), own = 1.0f;
  if (sink) {
    // As tiles: both are scaled to the larger score.
    float top = results[size + 16], less[16];
    store(less, exponential(splat(top < *sink ? top - *sink : *sink - top)));
    own = top < *sink ? less[0] : 1.0f;
    sum = sum * own + (*sink < top ? less[0] : 1.0f);
  }
  Floats factor = splat(own / sum);
  for (int i = 0; i < size; i += 16) store(results + i, mul(load(results + i), factor));
}

/** Copies a group of queries, `[headSize][N]`. */
INLINE void pack_group(const Attention *a, int query, float *out, const int N) {
  const float *from[ATTEND_QUERIES];
  UNROLL for (int n = 0; n < N; n++) {
    int row = (query + n) / a->perRow, head = (query + n) % a->perRow;
    from[n] = a->queries + (size_t)row * a->rowStride + (size_t)head * a->pages.paddedSize;
  }
  for (int d = 0; d < a->pages.headSize; d++)
    UNROLL for (int n = 0; n < N; n++) out[d * N + n] = from[n][d];
}

/** Copies queries so that those of a group are side by side. */
static void pack_queries(const Attention *a) {
  int query = 0, size = a->pages.headSize;
#define GROUP(N, W) \
  for (; query + N <= a->numQueries; query += N) pack_group(a, query, a->room.queries + (size_t)query * size, N);
  ATTEND_GROUPS
#undef GROUP
}

/** Writes a tile's numbers of all queries to `results`, or adds them to those of earlier tiles. */
INLINE void attend_tile(const Attention *a, const KeyTile *tile, float *results, int isAdded, int isRead, const KvType type) {
  const int size = a->pages.paddedSize, stride = size + TILE_SUMS;
  int query = 0;
#define GROUP(N, W)                                                                                       \
  for (; query + N <= a->numQueries; query += N) {                                                        \
    float *total = results + (size_t)query * stride;                                                      \
    attend_group(a, tile, query, isAdded ? a->room.tile : total, !isRead && query == 0, N, W, type);      \
    for (int n = 0; isAdded && n < N; n++) join_tile(total + n * stride, a->room.tile + n * stride, size); \
  }
  ATTEND_GROUPS
#undef GROUP
}

/** Replaces pages `[from, to)` of a tile by their float32, without their scales. */
INLINE void widen_pages(const Attention *a, KeyTile *tile, int from, int to, const KvType type) {
  const int count = 2 * a->pages.paddedSize * PAGE_TOKENS;
  for (int page = from; page < to; page++) {
    float *wide = a->room.pages + (size_t)page * count;
    for (int i = 0; i < count; i += 16) store(wide + i, load_cached(tile->pages[page], (size_t)i, type));
    tile->pages[page] = (const uint8_t *)wide;
  }
}

static const uint8_t *page_of(const Attention *a, int page) { return a->pages.base + (size_t)a->pageTable[page] * a->pages.pageBytes; }

static void attend(const Attention *a) {
  // Halves and bytes are converted once when several groups of queries read them.
  KvType type = a->pages.type;
  int widens = type != KV_FLOAT && a->numQueries > 2 * ATTEND_QUERIES;
  int firstSeen = first_position(a, 0) / PAGE_TOKENS, endSeen = (seen_end(a, a->numQueries - 1) - 1) / PAGE_TOKENS + 1;
  pack_queries(a);
  for (int index = a->firstTile; index < a->endTile; index++) {
    int page = index * TILE_PAGES, from = firstSeen > page ? firstSeen - page : 0, end = endSeen - page;
    int to = end < TILE_PAGES ? end : TILE_PAGES;
    KeyTile tile = {.start = index * ATTEND_TILE};
    for (int i = from; i < to; i++) {
      tile.pages[i] = page_of(a, page + i);
      tile.scales[i] = type == KV_BYTE ? head_scales(a->pages, tile.pages[i]) : NULL;
    }
    if (index + 1 < a->endTile) tile.numAhead = end < 2 * TILE_PAGES ? end - TILE_PAGES : TILE_PAGES;
    for (int i = 0; i < tile.numAhead; i++) tile.ahead[i] = page_of(a, page + TILE_PAGES + i);
    if (widens && type == KV_HALF) widen_pages(a, &tile, from, to, KV_HALF);
    else if (widens) widen_pages(a, &tile, from, to, KV_BYTE);
    float *results = a->results + (size_t)(index - a->firstTile) * a->tileStride;
    int isAdded = a->tileStride == 0 && index > a->firstTile;
    if (widens || type == KV_FLOAT) attend_tile(a, &tile, results, isAdded, widens, KV_FLOAT);
    else if (type == KV_HALF) attend_tile(a, &tile, results, isAdded, 0, KV_HALF);
    else attend_tile(a, &tile, results, isAdded, 0, KV_BYTE);
  }
}

/** Clamps values to the range of halves, so that what is stored is finite. */
INLINE Floats within_halves(Floats x) { return larger(smaller(x, splat(65504.0f)), splat(-65504.0f)); }

/** Loads numbers `[d, d + 16)` of a head, 0 behind its end. */
INLINE Floats load_head(const float *head, int d, int size) {
  if (d + 16 <= size) return load(head + d);
  float lanes[16] = {0};
  memcpy(lanes, head + d, (size_t)(size - d < 16 ? size - d : 16) * 4);
  return load(lanes);
}

/** Sets the scale of a head's bytes. @returns the factor by which its largest magnitude becomes 127 */
INLINE float set_scale(const float *head, int size, float *scale) {
  Floats most = splat(0);
  for (int d = 0; d < size; d += 16) most = larger(magnitude(within_halves(load_head(head, d, size))), most);
  float largest = largest_lane(most);
  *scale = largest / 127.0f;
  // Below this limit the quotient would not be finite; such heads count as 0.
  return largest > 1e-30f ? 127.0f / largest : 0.0f;
}

INLINE void store_cached(uint8_t *p, Floats x, float factor, const KvType type) {
  int16_t wide[16];
  if (type == KV_BYTE) store_rounded((int8_t *)p, wide, mul(within_halves(x), splat(factor)));
  else if (type == KV_HALF) store_halves((uint16_t *)p, within_halves(x));
  else store((float *)p, x);
}

/** Stores a key and a value in lane `lane` of a page. */
INLINE void store_in_page(HeadPages pages, uint8_t *page, int lane, const float *key, const float *value, const KvType type) {
  const int bytes = kv_bytes(type), size = pages.headSize;
  uint8_t *values = page + (size_t)(pages.paddedSize * (PAGE_TOKENS + lane) * bytes);
  float keyFactor = 1, valueFactor = 1;
  if (type == KV_BYTE) {
    float *scales = head_scales(pages, page) + lane;
    keyFactor = set_scale(key, size, scales);
    valueFactor = set_scale(value, size, scales + PAGE_TOKENS);
  }
  for (int d = 0; d < size; d += 16) {
    float room[16];
    uint8_t *keys = (uint8_t *)room;
    store_cached(keys, load_head(key, d, size), keyFactor, type);
    store_cached(values + d * bytes, load_head(value, d, size), valueFactor, type);
    for (int i = 0; i < 16 && d + i < size; i++) memcpy(page + ((d + i) * PAGE_TOKENS + lane) * bytes, keys + i * bytes, (size_t)bytes);
  }
}

static void store_token(HeadPages pages, const int32_t *pageTable, int32_t position, const float *key, const float *value) {
  uint8_t *page = pages.base + (size_t)pageTable[position / PAGE_TOKENS] * pages.pageBytes;
  int lane = position % PAGE_TOKENS;
  if (pages.type == KV_BYTE) store_in_page(pages, page, lane, key, value, KV_BYTE);
  else if (pages.type == KV_HALF) store_in_page(pages, page, lane, key, value, KV_HALF);
  else store_in_page(pages, page, lane, key, value, KV_FLOAT);
}
