// Sixteen lanes as four NEON registers; with the dot product instruction if USE_DOT_PRODUCT is defined.

#include <arm_neon.h>

typedef struct { float32x4_t v[4]; } Floats;
typedef struct { int32x4_t v[4]; } Ints;
typedef struct { int8x16_t v[4]; } Quads;
/** Four of sixteen inputs. */
typedef struct { int8x16_t inputs; int lane; } Quad;

// 6 vectors of sums fill 24 of 32 registers.
#define TILE_VECTORS 1
#define TILE_ROWS 6
#define ROW_VECTORS 4
#define GROUP_VECTORS 1
#define GROUP_ROWS 1
#ifdef USE_DOT_PRODUCT
#define SPAN_ROWS 3
#else
#define SPAN_ROWS 2
#endif
#define SPAN_VECTORS 1
#define ATTEND_QUERIES 5
#define ATTEND_GROUPS GROUP(5, 1) GROUP(4, 1) GROUP(3, 1) GROUP(2, 1) GROUP(1, 4)
#define QUADS_ARE_UNSIGNED 0

// Copies of a statement: loops in functions that are inlined this often take twice as long to compile.
#define EACH(...) { enum { i = 0 }; __VA_ARGS__; } { enum { i = 1 }; __VA_ARGS__; } { enum { i = 2 }; __VA_ARGS__; } { enum { i = 3 }; __VA_ARGS__; }
INLINE Floats load(const float *p) { Floats x; EACH(x.v[i] = vld1q_f32(p + 4 * i)); return x; }
INLINE void store(float *p, Floats x) { EACH(vst1q_f32(p + 4 * i, x.v[i])); }
INLINE Floats splat(float x) { Floats y; EACH(y.v[i] = vdupq_n_f32(x)); return y; }
// With copies the compiler would store a sum of `row_span` in its loop.
INLINE Floats add(Floats a, Floats b) { for (int i = 0; i < 4; i++) a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
INLINE Floats sub(Floats a, Floats b) { EACH(a.v[i] = vsubq_f32(a.v[i], b.v[i])); return a; }
INLINE Floats mul(Floats a, Floats b) { EACH(a.v[i] = vmulq_f32(a.v[i], b.v[i])); return a; }
INLINE Floats quotient(Floats a, Floats b) { EACH(a.v[i] = vdivq_f32(a.v[i], b.v[i])); return a; }
// As on x86, the result is the second operand when one is NaN.
INLINE Floats larger(Floats a, Floats b) { EACH(a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); return a; }
INLINE Floats smaller(Floats a, Floats b) { EACH(a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); return a; }
INLINE Floats magnitude(Floats a) { EACH(a.v[i] = vabsq_f32(a.v[i])); return a; }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { EACH(c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i])); return c; }
INLINE Floats keep_above(Floats a, float limit, Floats value) {
  EACH(value.v[i] = vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a.v[i], vdupq_n_f32(limit)), vreinterpretq_u32_f32(value.v[i]))));
  return value;
}
INLINE Floats keep_lanes(Floats a, int from, int to, float other) {
  static const int32_t FIRST[4] = {0, 1, 2, 3};
  EACH({
    int32x4_t lane = vaddq_s32(vld1q_s32(FIRST), vdupq_n_s32(4 * i));
    uint32x4_t inside = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(from)), vcltq_s32(lane, vdupq_n_s32(to)));
    a.v[i] = vbslq_f32(inside, a.v[i], vdupq_n_f32(other));
  });
  return a;
}
INLINE Floats power_of_two(Floats n) {
  EACH(n.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23)));
  return n;
}
INLINE Floats to_floats(Ints a) { Floats x; EACH(x.v[i] = vcvtq_f32_s32(a.v[i])); return x; }
INLINE Ints splat_int(int32_t x) { Ints y; EACH(y.v[i] = vdupq_n_s32(x)); return y; }
INLINE void store_ints(int32_t *p, Ints a) { EACH(vst1q_s32(p + 4 * i, a.v[i])); }
INLINE int32_t store_rounded(int8_t *p, int16_t *wide, Floats x) {
  (void)wide;
  int16x8_t low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[0])), vqmovn_s32(vcvtnq_s32_f32(x.v[1])));
  int16x8_t high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[2])), vqmovn_s32(vcvtnq_s32_f32(x.v[3])));
  int8x16_t bytes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
  vst1q_s8(p, bytes);
  return vaddlvq_s8(bytes);
}
INLINE Floats load_halves(const uint16_t *p) {
  Floats x;
  EACH(x.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
  return x;
}
INLINE Floats load_bfloats(const uint16_t *p) {
  Floats x;
  EACH(x.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p + 4 * i)), 16)));
  return x;
}
INLINE void store_halves(uint16_t *p, Floats x) { EACH(vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])))); }

/** Bytes of 16 outputs by four inputs. */
typedef struct { uint8x16_t v[4]; } Bytes;
INLINE Bytes load_bytes(const uint8_t *p) { Bytes b; EACH(b.v[i] = vld1q_u8(p + 16 * i)); return b; }
INLINE void store_bytes(uint8_t *p, Bytes b) { EACH(vst1q_u8(p + 16 * i, b.v[i])); }
INLINE Bytes moved(Bytes b, int by, int mask) {
  EACH(b.v[i] = vandq_u8(by == 0 ? b.v[i] : vshlq_u8(b.v[i], vdupq_n_s8((int8_t)by)), vdupq_n_u8((uint8_t)mask)));
  return b;
}
INLINE Bytes either(Bytes a, Bytes b) { EACH(a.v[i] = vorrq_u8(a.v[i], b.v[i])); return a; }
INLINE Bytes looked_up(Bytes b, const uint8_t *table) { EACH(b.v[i] = vqtbl1q_u8(vld1q_u8(table), b.v[i])); return b; }
INLINE Bytes flipped(Bytes b) { EACH(b.v[i] = veorq_u8(b.v[i], vdupq_n_u8(128))); return b; }
INLINE Quads quads_of_codes(Bytes b) { Quads q; EACH(q.v[i] = vreinterpretq_s8_u8(b.v[i])); return q; }
INLINE Quads quads_of(Bytes b) { return quads_of_codes(flipped(b)); }
INLINE Quads load_quads(const uint8_t *p) { return quads_of(load_bytes(p)); }
INLINE uint32x4_t four_of(const uint8_t *p, int i) {
  uint8x16_t x = vld1q_u8(p);
  uint16x8_t half = i < 2 ? vmovl_u8(vget_low_u8(x)) : vmovl_u8(vget_high_u8(x));
  return i % 2 == 0 ? vmovl_u16(vget_low_u16(half)) : vmovl_u16(vget_high_u16(half));
}
INLINE Floats load_unsigned(const uint8_t *p, int shift, int mask) {
  Floats x;
  EACH(x.v[i] = vcvtq_f32_u32(vandq_u32(vshlq_u32(four_of(p, i), vdupq_n_s32(-shift)), vdupq_n_u32((uint32_t)mask))));
  return x;
}
INLINE Floats load_signed(const uint8_t *p) {
  Floats x;
  EACH(x.v[i] = vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(vshlq_n_u32(four_of(p, i), 24)), 24)));
  return x;
}
INLINE Floats load_powers(const uint8_t *p) {
  Floats powers;
  EACH({
    uint32x4_t x = four_of(p, i), normal = vshlq_n_u32(vsubq_u32(x, vdupq_n_u32(1)), 23);
    uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(x));
    powers.v[i] = vreinterpretq_f32_u32(vbslq_u32(vcgtq_u32(x, vdupq_n_u32(1)), normal, tiny));
  });
  return powers;
}
#define SETTLE(sum) __asm__ volatile("" : "+w"((sum).v[0]), "+w"((sum).v[1]), "+w"((sum).v[2]), "+w"((sum).v[3])::"memory")
#define HAS_LANES
typedef int8x16_t Inputs;
INLINE Inputs load_inputs(const Rows *x, size_t at) { return vld1q_s8(x->values + at); }
INLINE Quad quad_of(Inputs inputs, const int lane) { return (Quad){inputs, lane}; }
INLINE Quad load_quad(const Rows *x, size_t at) {
  int32_t four;
  memcpy(&four, x->values + at, 4);
  return (Quad){vreinterpretq_s8_s32(vdupq_n_s32(four)), 0};
}
#ifdef USE_DOT_PRODUCT
INLINE int32x4_t add_products(int32x4_t sum, int8x16_t weights, Quad x) {
  switch (x.lane) {
    case 0: return vdotq_laneq_s32(sum, weights, x.inputs, 0);
    case 1: return vdotq_laneq_s32(sum, weights, x.inputs, 1);
    case 2: return vdotq_laneq_s32(sum, weights, x.inputs, 2);
    default: return vdotq_laneq_s32(sum, weights, x.inputs, 3);
  }
}
#else
INLINE int32x4_t add_products(int32x4_t sum, int8x16_t weights, Quad x) {
  int32x4_t four = vreinterpretq_s32_s8(x.inputs);
  int8x16_t inputs = vreinterpretq_s8_s32(x.lane == 0 ? vdupq_laneq_s32(four, 0) : x.lane == 1 ? vdupq_laneq_s32(four, 1) : x.lane == 2 ? vdupq_laneq_s32(four, 2) : vdupq_laneq_s32(four, 3));
  int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(inputs)));
  return vaddq_s32(sum, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(weights, inputs))));
}
#endif
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) {
  EACH(sum.v[i] = add_products(sum.v[i], weights.v[i], inputs));
  return sum;
}
#define dot_codes dot
#undef EACH
