// Attention of some queries over the pages of one sequence. A query's numbers depend on its own sums alone: scores over
// d = 0, 1, …, exponentials by 16 lanes of positions, values over positions in their order.

INLINE Floats load_cached(const uint8_t *p, size_t index, const int isHalf) {
  return isHalf ? load_halves((const uint16_t *)p + index) : load((const float *)p + index);
}

INLINE const uint8_t *page_of(const Attention *a, int page) { return a->pages.base + (size_t)a->pageTable[page] * a->pages.pageBytes; }

INLINE int first_position(const Attention *a, int query) {
  int position = a->positions[query];
  return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

/** Computes scores of N queries for P pages from `page` on; prefetches these pages' values and the next pages' keys. */
INLINE void score_pages(const Attention *a, int query, int page, int endPage, const int N, const int P, const int isHalf) {
  Floats sums[ATTEND_QUERIES][4];
  const uint8_t *keys[4], *nextKeys[4];
  const int rowBytes = PAGE_TOKENS * (isHalf ? 2 : 4);
  for (int p = 0; p < P; p++) {
    keys[p] = page_of(a, page + p);
    nextKeys[p] = page_of(a, page + P + p < endPage ? page + P + p : endPage - 1);
  }
  for (int n = 0; n < N; n++)
    for (int p = 0; p < P; p++) sums[n][p] = splat(0);
  for (int d = 0; d < a->pages.headSize; d++) {
    Floats key[4];
    if (d * rowBytes % 64 == 0)
      for (int p = 0; p < P; p++) {
        __builtin_prefetch(nextKeys[p] + d * rowBytes);
        __builtin_prefetch(keys[p] + (a->pages.paddedSize + d) * rowBytes);
      }
    for (int p = 0; p < P; p++) key[p] = load_cached(keys[p], (size_t)d * PAGE_TOKENS, isHalf);
    for (int n = 0; n < N; n++) {
      Floats input = splat(a->queries[query + n][d]);
      for (int p = 0; p < P; p++) sums[n][p] = add(sums[n][p], mul(input, key[p]));
    }
  }
  for (int n = 0; n < N; n++)
    for (int p = 0; p < P; p++)
      store(a->scores + (size_t)(query + n) * a->scoresStride + (page + p) * PAGE_TOKENS, mul(sums[n][p], splat(a->scale)));
}

/** Turns scores into weights, 0 for positions that the query does not see. @returns the sum of the weights */
INLINE float weigh(const Attention *a, int query, int firstPage, int endPage) {
  float *scores = a->scores + (size_t)query * a->scoresStride;
  const float unseen = -3e38f;
  int from = first_position(a, query), to = a->positions[query] + 1;
  Floats largest = splat(unseen);
  for (int page = firstPage; page < endPage; page++) {
    int start = page * PAGE_TOKENS;
    Floats score = load(scores + start);
    if (start < from || start + PAGE_TOKENS > to) {
      score = keep_lanes(score, from - start, to - start, unseen);
      store(scores + start, score);
    }
    largest = larger(largest, score);
  }
  Floats top = splat(largest_lane(largest)), sum = splat(0);
  for (int page = firstPage; page < endPage; page++) {
    Floats score = load(scores + page * PAGE_TOKENS);
    Floats weight = keep_above(score, unseen, exponential(sub(score, top)));
    store(scores + page * PAGE_TOKENS, weight);
    sum = add(sum, weight);
  }
  return sum_lanes(sum);
}

/** Computes outputs `[16 * vector, 16 * (vector + C))` of N queries. */
INLINE void add_values(const Attention *a, int query, int vector, int from, int to, const float *factors, const int N, const int C,
                       const int isHalf) {
  Floats sums[ATTEND_QUERIES][4];
  for (int n = 0; n < N; n++)
    for (int c = 0; c < C; c++) sums[n][c] = splat(0);
  for (int page = from / PAGE_TOKENS; page * PAGE_TOKENS < to; page++) {
    const uint8_t *values = page_of(a, page) + (size_t)a->pages.paddedSize * PAGE_TOKENS * (isHalf ? 2 : 4);
    int start = page * PAGE_TOKENS;
    int first = from > start ? from - start : 0, end = to - start < PAGE_TOKENS ? to - start : PAGE_TOKENS;
    for (int t = first; t < end; t++) {
      Floats value[4];
      for (int c = 0; c < C; c++) value[c] = load_cached(values, (size_t)t * a->pages.paddedSize + 16 * (vector + c), isHalf);
      for (int n = 0; n < N; n++) {
        Floats weight = splat(a->scores[(size_t)(query + n) * a->scoresStride + start + t]);
        for (int c = 0; c < C; c++) sums[n][c] = add(sums[n][c], mul(weight, value[c]));
      }
    }
  }
  for (int n = 0; n < N; n++)
    for (int c = 0; c < C; c++) store(a->outputs[query + n] + 16 * (vector + c), mul(sums[n][c], splat(factors[query + n])));
}

/** Scores N queries at once, four pages at a time when few queries leave registers free. */
INLINE void score_queries(const Attention *a, int query, int firstPage, int endPage, const int N, const int isHalf) {
  int page = firstPage;
  if (N * 4 <= ATTEND_QUERIES)
    for (; page + 4 <= endPage; page += 4) score_pages(a, query, page, endPage, N, 4, isHalf);
  for (; page < endPage; page++) score_pages(a, query, page, endPage, N, 1, isHalf);
}

INLINE void value_queries(const Attention *a, int query, int from, int to, const float *factors, const int N, const int isHalf) {
  int numVectors = a->pages.paddedSize / 16, vector = 0;
  for (; vector + 4 <= numVectors; vector += 4) add_values(a, query, vector, from, to, factors, N, 4, isHalf);
  for (; vector < numVectors; vector++) add_values(a, query, vector, from, to, factors, N, 1, isHalf);
}

INLINE void attend_cached(const Attention *a, const int isHalf) {
  int from = first_position(a, 0), to = a->positions[0] + 1;
  for (int n = 1; n < a->numQueries; n++) {
    int first = first_position(a, n);
    if (first < from) from = first;
    if (a->positions[n] >= to) to = a->positions[n] + 1;
  }
  int firstPage = from / PAGE_TOKENS, endPage = (to + PAGE_TOKENS - 1) / PAGE_TOKENS;
  float factors[ATTEND_MOST];
  int query = 0;
#if ATTEND_QUERIES >= 12
  for (; query + 12 <= a->numQueries; query += 12) score_queries(a, query, firstPage, endPage, 12, isHalf);
  for (; query + 6 <= a->numQueries; query += 6) score_queries(a, query, firstPage, endPage, 6, isHalf);
#endif
#if ATTEND_QUERIES >= 4
  for (; query + 4 <= a->numQueries; query += 4) score_queries(a, query, firstPage, endPage, 4, isHalf);
#endif
#if ATTEND_QUERIES >= 3
  for (; query + 3 <= a->numQueries; query += 3) score_queries(a, query, firstPage, endPage, 3, isHalf);
#endif
  for (; query < a->numQueries; query++) score_queries(a, query, firstPage, endPage, 1, isHalf);
  for (int n = 0; n < a->numQueries; n++) factors[n] = 1.0f / weigh(a, n, firstPage, endPage);
  query = 0;
#if ATTEND_QUERIES >= 12
  for (; query + 6 <= a->numQueries; query += 6) value_queries(a, query, from, to, factors, 6, isHalf);
#endif
#if ATTEND_QUERIES >= 3
  for (; query + 3 <= a->numQueries; query += 3) value_queries(a, query, from, to, factors, 3, isHalf);
#endif
  for (; query < a->numQueries; query++) value_queries(a, query, from, to, factors, 1, isHalf);
}

static void attend(const Attention *a) {
  if (a->pages.isHalf) attend_cached(a, 1);
  else attend_cached(a, 0);
}

/** Clamps values to the range of halves. */
INLINE Floats within_halves(Floats x) { return larger(smaller(x, splat(65504.0f)), splat(-65504.0f)); }

static void store_token(HeadPages pages, const int32_t *pageTable, int32_t position, const float *key, const float *value) {
  uint8_t *page = pages.base + (size_t)pageTable[position / PAGE_TOKENS] * pages.pageBytes;
  int lane = position % PAGE_TOKENS;
  size_t values = (size_t)pages.paddedSize * (PAGE_TOKENS + lane);
  for (int d = 0; d < pages.headSize; d += 16) {
    int count = pages.headSize - d < 16 ? pages.headSize - d : 16;
    float keys16[16] = {0}, values16[16] = {0};
    memcpy(keys16, key + d, (size_t)count * 4);
    memcpy(values16, value + d, (size_t)count * 4);
    if (pages.isHalf) {
      uint16_t halves[16], *cached = (uint16_t *)page;
      store_halves(halves, within_halves(load(keys16)));
      for (int i = 0; i < count; i++) cached[(size_t)(d + i) * PAGE_TOKENS + lane] = halves[i];
      store_halves(cached + values + d, within_halves(load(values16)));
    } else {
      float *cached = (float *)page;
      for (int i = 0; i < count; i++) cached[(size_t)(d + i) * PAGE_TOKENS + lane] = keys16[i];
      store(cached + values + d, load(values16));
    }
  }
}
