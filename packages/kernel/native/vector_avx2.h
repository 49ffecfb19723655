// Sixteen lanes as two AVX2 registers; with AVX-VNNI if USE_AVX_VNNI is defined.

#include <immintrin.h>

typedef struct { __m256 v[2]; } Floats;
typedef struct { __m256i v[2]; } Ints;
typedef struct { __m256i v[2]; } Quads;
typedef __m256i Quad;

// The sums of a tile fill 12 of the 16 registers, or 8 when products need more registers.
#define TILE_VECTORS 1
#ifdef USE_AVX_VNNI
#define TILE_ROWS 6
#define SPAN_ROWS 3
#else
#define TILE_ROWS 4
#define SPAN_ROWS 2
#endif
#define SPAN_VECTORS 1
#define ROW_VECTORS 4
#define GROUP_VECTORS 4
#define GROUP_ROWS 1
#define ATTEND_QUERIES 6
#define ATTEND_GROUPS GROUP(6, 1) GROUP(4, 1) GROUP(3, 1) GROUP(2, 2) GROUP(1, 4)

// Copies of a statement: loops in functions that are inlined this often take twice as long to compile.
#define EACH(...) { enum { i = 0 }; __VA_ARGS__; } { enum { i = 1 }; __VA_ARGS__; }
INLINE Floats load(const float *p) { return (Floats){{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
INLINE void store(float *p, Floats x) { EACH(_mm256_storeu_ps(p + 8 * i, x.v[i])); }
INLINE Floats splat(float x) { return (Floats){{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
INLINE Floats add(Floats a, Floats b) { EACH(a.v[i] = _mm256_add_ps(a.v[i], b.v[i])); return a; }
INLINE Floats sub(Floats a, Floats b) { EACH(a.v[i] = _mm256_sub_ps(a.v[i], b.v[i])); return a; }
INLINE Floats mul(Floats a, Floats b) { EACH(a.v[i] = _mm256_mul_ps(a.v[i], b.v[i])); return a; }
INLINE Floats quotient(Floats a, Floats b) { EACH(a.v[i] = _mm256_div_ps(a.v[i], b.v[i])); return a; }
INLINE Floats larger(Floats a, Floats b) { EACH(a.v[i] = _mm256_max_ps(a.v[i], b.v[i])); return a; }
INLINE Floats smaller(Floats a, Floats b) { EACH(a.v[i] = _mm256_min_ps(a.v[i], b.v[i])); return a; }
INLINE Floats magnitude(Floats a) { EACH(a.v[i] = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v[i])); return a; }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { EACH(c.v[i] = _mm256_fmadd_ps(a.v[i], b.v[i], c.v[i])); return c; }
INLINE Floats keep_above(Floats a, float limit, Floats value) {
  EACH(value.v[i] = _mm256_and_ps(_mm256_cmp_ps(a.v[i], _mm256_set1_ps(limit), _CMP_GT_OQ), value.v[i]));
  return value;
}
INLINE Floats keep_lanes(Floats a, int from, int to, float other) {
  EACH({
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * i));
    __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane), _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(to - 1)));
    a.v[i] = _mm256_blendv_ps(a.v[i], _mm256_set1_ps(other), _mm256_castsi256_ps(outside));
  });
  return a;
}
INLINE Floats power_of_two(Floats n) {
  EACH(n.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v[i]), _mm256_set1_epi32(127)), 23)));
  return n;
}
INLINE Floats to_floats(Ints a) { Floats x; EACH(x.v[i] = _mm256_cvtepi32_ps(a.v[i])); return x; }
INLINE Ints splat_int(int32_t x) { return (Ints){{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
INLINE void store_ints(int32_t *p, Ints a) { EACH(_mm256_storeu_si256((__m256i *)(p + 8 * i), a.v[i])); }
INLINE int32_t store_rounded(int8_t *p, int16_t *wide, Floats x) {
  (void)wide;
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1]));
  words = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}
#define HAS_LARGEST_LANE
INLINE float largest_lane(Floats x) {
  __m256 eight = _mm256_max_ps(x.v[0], x.v[1]);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
INLINE Floats load_halves(const uint16_t *p) {
  return (Floats){{_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))}};
}
INLINE Floats load_bfloats(const uint16_t *p) {
  Floats x;
  EACH(x.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8 * i))), 16)));
  return x;
}
INLINE void store_halves(uint16_t *p, Floats x) {
  EACH(_mm_storeu_si128((__m128i *)(p + 8 * i), _mm256_cvtps_ph(x.v[i], _MM_FROUND_TO_NEAREST_INT)));
}

/** Bytes of 16 outputs by four inputs. */
typedef Quads Bytes;
INLINE Bytes load_bytes(const uint8_t *p) {
  return (Bytes){{_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))}};
}
INLINE void store_bytes(uint8_t *p, Bytes b) { EACH(_mm256_storeu_si256((__m256i *)(p + 32 * i), b.v[i])); }
INLINE Bytes moved(Bytes b, int by, int mask) {
  EACH({
    __m256i x = by < 0 ? _mm256_srli_epi16(b.v[i], -by) : by > 0 ? _mm256_slli_epi16(b.v[i], by) : b.v[i];
    b.v[i] = _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
  });
  return b;
}
INLINE Bytes either(Bytes a, Bytes b) { EACH(a.v[i] = _mm256_or_si256(a.v[i], b.v[i])); return a; }
INLINE Bytes looked_up(Bytes b, const uint8_t *table) {
  EACH(b.v[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), b.v[i]));
  return b;
}
INLINE __m256i load_eight(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE Floats load_unsigned(const uint8_t *p, int shift, int mask) {
  Floats x;
  EACH(x.v[i] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(load_eight(p + 8 * i), shift), _mm256_set1_epi32(mask))));
  return x;
}
INLINE Floats load_signed(const uint8_t *p) {
  Floats x;
  EACH(x.v[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8 * i)))));
  return x;
}
INLINE Floats load_powers(const uint8_t *p) {
  Floats powers;
  EACH({
    __m256i x = load_eight(p + 8 * i), normal = _mm256_slli_epi32(_mm256_sub_epi32(x, _mm256_set1_epi32(1)), 23);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), x);
    powers.v[i] = _mm256_castsi256_ps(_mm256_blendv_epi8(tiny, normal, _mm256_cmpgt_epi32(x, _mm256_set1_epi32(1))));
  });
  return powers;
}

#define SETTLE(sum) __asm__ volatile("" : "+x"((sum).v[0]), "+x"((sum).v[1])::"memory")
INLINE Quad load_quad(const Rows *x, size_t at) { int32_t four; memcpy(&four, x->values + at, 4); return _mm256_set1_epi32(four); }

#ifdef USE_AVX_VNNI
#define QUADS_ARE_UNSIGNED 1
INLINE Quads quads_of(Bytes b) { return b; }
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) {
  EACH(sum.v[i] = _mm256_dpbusd_avx_epi32(sum.v[i], weights.v[i], inputs));
  return sum;
}
#define dot_codes dot
#else
#define QUADS_ARE_UNSIGNED 0
#define HAS_OWN_DOT_CODES
INLINE Bytes flipped(Bytes b) { EACH(b.v[i] = _mm256_xor_si256(b.v[i], _mm256_set1_epi8(-128))); return b; }
INLINE Quads quads_of(Bytes b) { return flipped(b); }
INLINE __m256i add_pairs(__m256i sum, __m256i pairs) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/** Moves signs to the inputs: two products of at most 128 x 127 fit 16 bits, so nothing saturates. */
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) {
  EACH({
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights.v[i]), _mm256_sign_epi8(inputs, weights.v[i]));
    sum.v[i] = add_pairs(sum.v[i], pairs);
  });
  return sum;
}
INLINE Ints dot_codes(Ints sum, Quads weights, Quad inputs) {
  EACH(sum.v[i] = add_pairs(sum.v[i], _mm256_maddubs_epi16(weights.v[i], inputs)));
  return sum;
}
#endif
INLINE Quads quads_of_codes(Bytes b) { return b; }
INLINE Quads load_quads(const uint8_t *p) { return quads_of(load_bytes(p)); }
#undef EACH
