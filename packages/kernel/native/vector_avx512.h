// Sixteen lanes as one AVX-512 register, with VNNI.

#include <immintrin.h>

typedef __m512 Floats;
typedef __m512i Ints;
typedef __m512i Quads;
typedef __m512i Quad;

// 4 x 6 sums fill 24 of 32 registers.
#define TILE_VECTORS 4
#define TILE_ROWS 6
#define ROW_VECTORS 4
#define GROUP_VECTORS 4
#define GROUP_ROWS 2
// Unpacking takes ports that products leave free, and 3 x 4 sums and products fit the registers.
#define HAS_PACKED_TILES
#define SPAN_ROWS 3
#define SPAN_VECTORS 4
// Attention: groups of N queries with W vectors of sums each; the largest first.
#define ATTEND_QUERIES 12
#define ATTEND_GROUPS GROUP(12, 1) GROUP(8, 1) GROUP(7, 1) GROUP(6, 1) GROUP(4, 1) GROUP(3, 1) GROUP(2, 1) GROUP(1, 4)
#define QUADS_ARE_UNSIGNED 1

INLINE Floats load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, Floats x) { _mm512_storeu_ps(p, x); }
INLINE Floats splat(float x) { return _mm512_set1_ps(x); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats quotient(Floats a, Floats b) { return _mm512_div_ps(a, b); }
INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Floats magnitude(Floats a) { return _mm512_abs_ps(a); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
/** Returns `value` where `a > limit`, else 0. */
INLINE Floats keep_above(Floats a, float limit, Floats value) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_set1_ps(limit), _CMP_GT_OQ), value);
}
/** Returns `a` in lanes `[from, to)`, `other` in the other lanes. */
INLINE Floats keep_lanes(Floats a, int from, int to, float other) {
  __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __mmask16 inside = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(from)) & _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(to));
  return _mm512_mask_mov_ps(_mm512_set1_ps(other), inside, a);
}
/** Computes `2^n` for integers n in [-126, 127]. */
INLINE Floats power_of_two(Floats n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
INLINE Ints splat_int(int32_t x) { return _mm512_set1_epi32(x); }
INLINE void store_ints(int32_t *p, Ints a) { _mm512_storeu_si512(p, a); }
/**
 * Rounds to the nearest integers, ties to even, which must fit 8 bits; `wide` gets them in 16 bits, for products that
 * need those. @returns their sum
 */
INLINE int32_t store_rounded(int8_t *p, int16_t *wide, Floats x) {
  (void)wide;
  __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
  _mm_storeu_si128((__m128i *)p, bytes);
  // The bytes are summed, because the integer of a NaN is out of their range.
  return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes));
}
#define HAS_LARGEST_LANE
INLINE float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }

// Groups of a row are rounded together: one vector has the largest magnitudes of up to four, another their sums.
#define HAS_ROUNDED_GROUPS
typedef __m128 Four;
/** Returns the largest lane of each vector. */
INLINE Four largest_of_four(const Floats x[4]) {
  __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  __m512 all = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
/** Stores the factors by which magnitudes become 127, and the scales that undo them; see `round_row` for both bounds. */
INLINE void store_factors(Four largest, float *factors, float *scales, const int count) {
  __m128 most = _mm_set1_ps(127.0f);
  _mm_storeu_ps(factors, _mm_and_ps(_mm_cmp_ps(largest, _mm_set1_ps(1e-30f), _CMP_GT_OQ), _mm_div_ps(most, largest)));
  _mm_mask_storeu_ps(scales, (__mmask8)((1 << count) - 1), _mm_add_ps(_mm_div_ps(largest, most), _mm_sub_ps(largest, largest)));
}
INLINE void store_bytes_of(int8_t *p, Floats x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))); }
/** Stores the sums of values of 2 or 4 groups, by half groups and groups, and the offsets of groups. */
INLINE void store_sums(const int8_t *values, int32_t *halfSums, int32_t *sums, int32_t *offsets, const int count) {
  const __m512i none = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
  // Each 128 bits have a half group: of a the first two groups, of b the last two.
  __m512i a = _mm512_dpbusd_epi32(none, ones, _mm512_loadu_si512(values));
  __m512i b = count == 4 ? _mm512_dpbusd_epi32(none, ones, _mm512_loadu_si512(values + 64)) : none;
  __m512i pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  __m512i all = _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_BADC));
  all = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 8, 1, 9, 4, 12, 5, 13, 0, 0, 0, 0, 0, 0, 0, 0), all);
  __m128i first = _mm512_castsi512_si128(all), both = _mm_add_epi32(first, _mm512_extracti32x4_epi32(all, 1));
  const __mmask8 mask = (__mmask8)((1 << count) - 1);
  _mm_mask_storeu_epi32(halfSums, mask, first);
  _mm_mask_storeu_epi32(sums, mask, both);
  _mm_mask_storeu_epi32(offsets, mask, _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), both), 7));
}
INLINE Floats load_halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE Floats load_bfloats(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE void store_halves(uint16_t *p, Floats x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

INLINE Quads load_quads(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE Quad load_quad(const Rows *x, size_t at) { int32_t four; memcpy(&four, x->values + at, 4); return _mm512_set1_epi32(four); }
#define SETTLE(sum) __asm__ volatile("" : "+v"(sum)::"memory")
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) { return _mm512_dpbusd_epi32(sum, weights, inputs); }

/** Bytes of 16 outputs by four inputs. */
typedef __m512i Bytes;
INLINE Bytes load_bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE void store_bytes(uint8_t *p, Bytes b) { _mm512_storeu_si512(p, b); }
/** Moves each byte's bits up by `by`, or down if it is negative, and keeps those of `mask`, which no other byte reaches. */
INLINE Bytes moved(Bytes b, int by, int mask) {
  b = by < 0 ? _mm512_srli_epi16(b, (unsigned)-by) : by > 0 ? _mm512_slli_epi16(b, (unsigned)by) : b;
  return _mm512_and_si512(b, _mm512_set1_epi8((char)mask));
}
INLINE Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
INLINE Bytes looked_up(Bytes b, const uint8_t *table) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), b);
}
/** Makes operands of bytes: of any, stored with 128 added, for `dot`; of those below 128 for `dot_codes`. */
INLINE Quads quads_of(Bytes b) { return b; }
INLINE Quads quads_of_codes(Bytes b) { return b; }
#define dot_codes dot
/** Reads unsigned bytes, of which bits `mask` count after a shift to the right; signed bytes; `2^(byte - 128)`. */
INLINE Floats load_unsigned(const uint8_t *p, int shift, int mask) {
  __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(x, (unsigned)shift), _mm512_set1_epi32(mask)));
}
INLINE Floats load_signed(const uint8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
INLINE Floats load_powers(const uint8_t *p) {
  __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x200000), x);
  __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(x, _mm512_set1_epi32(1)), 23);
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, _mm512_cmplt_epi32_mask(x, _mm512_set1_epi32(2)), tiny));
}
