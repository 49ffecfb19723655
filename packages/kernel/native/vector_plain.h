// Sixteen lanes one after another: the reference with which all other vectors agree bit by bit.

// WebAssembly has no fused multiply-add: float32 products round twice there.
#ifdef __wasm__
#define FUSED(a, b, c) ((a) * (b) + (c))
#else
#include <math.h>
#define FUSED fmaf
#endif

typedef struct { float v[16]; } Floats;
typedef struct { int32_t v[16]; } Ints;
typedef struct { int8_t v[64]; } Quads;
typedef struct { int8_t v[4]; } Quad;

#define TILE_VECTORS 1
#define TILE_ROWS 1
#define ROW_VECTORS 1
#define GROUP_VECTORS 1
#define GROUP_ROWS 1
#define SPAN_ROWS 1
#define SPAN_VECTORS 1
#define ATTEND_QUERIES 1
#define ATTEND_GROUPS GROUP(1, 1)
#define QUADS_ARE_UNSIGNED 0

#define EACH for (int i = 0; i < 16; i++)
INLINE Floats load(const float *p) { Floats x; EACH x.v[i] = p[i]; return x; }
INLINE void store(float *p, Floats x) { EACH p[i] = x.v[i]; }
INLINE Floats splat(float x) { Floats y; EACH y.v[i] = x; return y; }
INLINE Floats add(Floats a, Floats b) { EACH a.v[i] += b.v[i]; return a; }
INLINE Floats sub(Floats a, Floats b) { EACH a.v[i] -= b.v[i]; return a; }
INLINE Floats mul(Floats a, Floats b) { EACH a.v[i] *= b.v[i]; return a; }
INLINE Floats quotient(Floats a, Floats b) { EACH a.v[i] /= b.v[i]; return a; }
INLINE Floats larger(Floats a, Floats b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
INLINE Floats smaller(Floats a, Floats b) { EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
INLINE Floats magnitude(Floats a) { EACH a.v[i] = __builtin_fabsf(a.v[i]); return a; }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { EACH c.v[i] = FUSED(a.v[i], b.v[i], c.v[i]); return c; }
INLINE Floats keep_above(Floats a, float limit, Floats value) { EACH value.v[i] = a.v[i] > limit ? value.v[i] : 0; return value; }
INLINE Floats keep_lanes(Floats a, int from, int to, float other) { EACH a.v[i] = i >= from && i < to ? a.v[i] : other; return a; }
INLINE Floats power_of_two(Floats n) {
  EACH { int32_t bits = ((int32_t)n.v[i] + 127) * (1 << 23); memcpy(&n.v[i], &bits, 4); }
  return n;
}
INLINE Floats to_floats(Ints a) { Floats x; EACH x.v[i] = (float)a.v[i]; return x; }
INLINE Ints splat_int(int32_t x) { Ints y; EACH y.v[i] = x; return y; }
INLINE void store_ints(int32_t *p, Ints a) { EACH p[i] = a.v[i]; }
// Values out of range occur only beside NaN, where results have no meaning; they become 0.
INLINE int32_t store_rounded(int8_t *p, int16_t *wide, Floats x) {
  (void)wide;
  int32_t sum = 0;
  EACH {
    float whole = (x.v[i] + 0x1.8p23f) - 0x1.8p23f;
    // NaN and values out of range have no byte.
    p[i] = whole >= -128 && whole <= 127 ? (int8_t)whole : 0;
    sum += p[i];
  }
  return sum;
}
INLINE Floats load_halves(const uint16_t *p) { Floats x; EACH x.v[i] = float_of(p[i]); return x; }
INLINE Floats load_bfloats(const uint16_t *p) { Floats x; EACH x.v[i] = bfloat_of(p[i]); return x; }
INLINE void store_halves(uint16_t *p, Floats x) { EACH p[i] = half_of(x.v[i]); }

/** Bytes of 16 outputs by four inputs. */
typedef struct { uint8_t v[64]; } Bytes;
#define EACH_BYTE for (int i = 0; i < 64; i++)
INLINE Bytes load_bytes(const uint8_t *p) { Bytes b; memcpy(b.v, p, 64); return b; }
INLINE void store_bytes(uint8_t *p, Bytes b) { memcpy(p, b.v, 64); }
INLINE Bytes moved(Bytes b, int by, int mask) { EACH_BYTE b.v[i] = (uint8_t)((by < 0 ? b.v[i] >> -by : b.v[i] << by) & mask); return b; }
INLINE Bytes either(Bytes a, Bytes b) { EACH_BYTE a.v[i] |= b.v[i]; return a; }
INLINE Bytes looked_up(Bytes b, const uint8_t *table) { EACH_BYTE b.v[i] = table[b.v[i]]; return b; }
INLINE Bytes flipped(Bytes b) { EACH_BYTE b.v[i] ^= 128; return b; }
INLINE Quads quads_of_codes(Bytes b) { Quads q; EACH_BYTE q.v[i] = (int8_t)b.v[i]; return q; }
INLINE Quads quads_of(Bytes b) { return quads_of_codes(flipped(b)); }
INLINE Quads load_quads(const uint8_t *p) { return quads_of(load_bytes(p)); }
INLINE Floats load_unsigned(const uint8_t *p, int shift, int mask) { Floats x; EACH x.v[i] = (float)(p[i] >> shift & mask); return x; }
INLINE Floats load_signed(const uint8_t *p) { Floats x; EACH x.v[i] = (float)(int8_t)p[i]; return x; }
INLINE Floats load_powers(const uint8_t *p) { Floats x; EACH x.v[i] = power_of(p[i]); return x; }
#undef EACH_BYTE
INLINE Quad load_quad(const Rows *x, size_t at) { Quad q; memcpy(q.v, x->values + at, 4); return q; }
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) {
  EACH for (int j = 0; j < 4; j++) sum.v[i] += weights.v[4 * i + j] * inputs.v[j];
  return sum;
}
#define dot_codes dot
#undef EACH
