// Sixteen lanes as four WebAssembly vectors. USE_RELAXED is for engines whose relaxed dot product multiplies unsigned
// by signed bytes exactly, which `has_exact_product` in wasm.c finds out.

#include <wasm_simd128.h>

typedef struct { v128_t v[4]; } Floats;
typedef struct { v128_t v[4]; } Ints;

#define TILE_VECTORS 4
#define TILE_ROWS 4
#define ROW_VECTORS 4
#define GROUP_VECTORS 1
#define GROUP_ROWS 1
#define HAS_OWN_TILE_INT8
#define SPAN_ROWS 2
#define SPAN_VECTORS 1
#define ATTEND_QUERIES 3
#define ATTEND_GROUPS GROUP(3, 1) GROUP(2, 1) GROUP(1, 2)

// Copies of a statement: loops in functions that are inlined this often take twice as long to compile.
#define EACH(...) { enum { i = 0 }; __VA_ARGS__; } { enum { i = 1 }; __VA_ARGS__; } { enum { i = 2 }; __VA_ARGS__; } { enum { i = 3 }; __VA_ARGS__; }
INLINE Floats load(const float *p) { Floats x; EACH(x.v[i] = wasm_v128_load(p + 4 * i)); return x; }
INLINE void store(float *p, Floats x) { EACH(wasm_v128_store(p + 4 * i, x.v[i])); }
INLINE Floats splat(float x) { Floats y; EACH(y.v[i] = wasm_f32x4_splat(x)); return y; }
INLINE Floats add(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_add(a.v[i], b.v[i])); return a; }
INLINE Floats sub(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_sub(a.v[i], b.v[i])); return a; }
INLINE Floats mul(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_mul(a.v[i], b.v[i])); return a; }
INLINE Floats quotient(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_div(a.v[i], b.v[i])); return a; }
// As on x86, the result is the second operand when one is NaN.
INLINE Floats larger(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_pmax(b.v[i], a.v[i])); return a; }
INLINE Floats smaller(Floats a, Floats b) { EACH(a.v[i] = wasm_f32x4_pmin(b.v[i], a.v[i])); return a; }
INLINE Floats magnitude(Floats a) { EACH(a.v[i] = wasm_f32x4_abs(a.v[i])); return a; }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return add(mul(a, b), c); }
INLINE Floats keep_above(Floats a, float limit, Floats value) {
  EACH(value.v[i] = wasm_v128_and(wasm_f32x4_gt(a.v[i], wasm_f32x4_splat(limit)), value.v[i]));
  return value;
}
INLINE Floats keep_lanes(Floats a, int from, int to, float other) {
  EACH({
    v128_t lane = wasm_i32x4_add(wasm_i32x4_const(0, 1, 2, 3), wasm_i32x4_splat(4 * i));
    v128_t inside = wasm_v128_and(wasm_i32x4_ge(lane, wasm_i32x4_splat(from)), wasm_i32x4_lt(lane, wasm_i32x4_splat(to)));
    a.v[i] = wasm_v128_bitselect(a.v[i], wasm_f32x4_splat(other), inside);
  });
  return a;
}
INLINE Floats power_of_two(Floats n) {
  EACH(n.v[i] = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n.v[i]), wasm_i32x4_splat(127)), 23));
  return n;
}
INLINE Floats to_floats(Ints a) { Floats x; EACH(x.v[i] = wasm_f32x4_convert_i32x4(a.v[i])); return x; }
INLINE Ints splat_int(int32_t x) { Ints y; EACH(y.v[i] = wasm_i32x4_splat(x)); return y; }
INLINE void store_ints(int32_t *p, Ints a) { EACH(wasm_v128_store(p + 4 * i, a.v[i])); }
INLINE int32_t store_rounded(int8_t *p, int16_t *wide, Floats x) {
  v128_t whole[4];
  EACH(whole[i] = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(x.v[i])));
  v128_t low = wasm_i16x8_narrow_i32x4(whole[0], whole[1]), high = wasm_i16x8_narrow_i32x4(whole[2], whole[3]);
  wasm_v128_store(p, wasm_i8x16_narrow_i16x8(low, high));
  wasm_v128_store(wide, low);
  wasm_v128_store(wide + 8, high);
  v128_t sum = wasm_i32x4_dot_i16x8(wasm_i16x8_add(low, high), wasm_i16x8_splat(1));
  sum = wasm_i32x4_add(sum, wasm_i32x4_shuffle(sum, sum, 2, 3, 0, 1));
  return wasm_i32x4_extract_lane(sum, 0) + wasm_i32x4_extract_lane(sum, 1);
}
/** Moves exponent and fraction below the sign, and corrects the exponent by a product. Infinity and NaN get the largest one. */
INLINE Floats load_halves(const uint16_t *p) {
  Floats x;
  EACH({
    v128_t bits = wasm_i32x4_shl(wasm_i32x4_load16x4((const int16_t *)p + 4 * i), 13);
    v128_t largest = wasm_i32x4_splat(0x0f800000), isLargest = wasm_i32x4_eq(wasm_v128_and(bits, largest), largest);
    v128_t finite = wasm_f32x4_mul(wasm_v128_and(bits, wasm_i32x4_splat((int32_t)0x8fffe000)), wasm_f32x4_splat(0x1p112f));
    x.v[i] = wasm_v128_or(finite, wasm_v128_and(isLargest, wasm_i32x4_splat(0x7f800000)));
  });
  return x;
}
INLINE Floats load_bfloats(const uint16_t *p) { Floats x; EACH(x.v[i] = wasm_i32x4_shl(wasm_u32x4_load16x4(p + 4 * i), 16)); return x; }
INLINE void store_halves(uint16_t *p, Floats x) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < 16; i++) p[i] = half_of(lanes[i]);
}

#define QUADS_ARE_UNSIGNED 1
#ifdef USE_RELAXED
/** Four inputs of each of four outputs. */
typedef v128_t Quarter;
typedef v128_t Quad;
INLINE Quarter quarter_of(v128_t bytes) { return bytes; }
INLINE Quad load_quad(const Rows *x, size_t at) { return wasm_v128_load32_splat(x->values + at); }
INLINE v128_t add_quarter(v128_t sum, Quarter weights, Quad inputs) {
  return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(inputs, weights, sum);
}
#else
/** Inputs 0 and 1 of four outputs, and inputs 2 and 3, in 16 bits. */
typedef struct { v128_t first, second; } Quarter;
typedef Quarter Quad;
INLINE Quarter quarter_of(v128_t bytes) {
  v128_t pairs = wasm_i8x16_shuffle(bytes, bytes, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return (Quarter){wasm_u16x8_extend_low_u8x16(pairs), wasm_u16x8_extend_high_u8x16(pairs)};
}
INLINE Quad load_quad(const Rows *x, size_t at) {
  return (Quad){wasm_v128_load32_splat(x->wide + at), wasm_v128_load32_splat(x->wide + at + 2)};
}
INLINE v128_t add_quarter(v128_t sum, Quarter weights, Quad inputs) {
  v128_t first = wasm_i32x4_dot_i16x8(weights.first, inputs.first);
  return wasm_i32x4_add(sum, wasm_i32x4_add(first, wasm_i32x4_dot_i16x8(weights.second, inputs.second)));
}
#endif
typedef struct { Quarter quarters[4]; } Quads;
/** Bytes of 16 outputs by four inputs. */
typedef struct { v128_t v[4]; } Bytes;
INLINE Bytes load_bytes(const uint8_t *p) { Bytes b; EACH(b.v[i] = wasm_v128_load(p + 16 * i)); return b; }
INLINE void store_bytes(uint8_t *p, Bytes b) { EACH(wasm_v128_store(p + 16 * i, b.v[i])); }
INLINE Bytes moved(Bytes b, int by, int mask) {
  EACH({
    v128_t x = by < 0 ? wasm_u8x16_shr(b.v[i], (uint32_t)-by) : by > 0 ? wasm_i8x16_shl(b.v[i], (uint32_t)by) : b.v[i];
    b.v[i] = wasm_v128_and(x, wasm_i8x16_splat((int8_t)mask));
  });
  return b;
}
INLINE Bytes either(Bytes a, Bytes b) { EACH(a.v[i] = wasm_v128_or(a.v[i], b.v[i])); return a; }
INLINE Bytes looked_up(Bytes b, const uint8_t *table) { EACH(b.v[i] = wasm_i8x16_swizzle(wasm_v128_load(table), b.v[i])); return b; }
INLINE Quads quads_of(Bytes b) { Quads q; EACH(q.quarters[i] = quarter_of(b.v[i])); return q; }
#define quads_of_codes quads_of
INLINE Quads load_quads(const uint8_t *p) { return quads_of(load_bytes(p)); }
INLINE v128_t four_of(const uint8_t *p, int i) {
  return wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p + 4 * i)));
}
INLINE Floats load_unsigned(const uint8_t *p, int shift, int mask) {
  Floats x;
  EACH(x.v[i] = wasm_f32x4_convert_i32x4(wasm_v128_and(wasm_u32x4_shr(four_of(p, i), (uint32_t)shift), wasm_i32x4_splat(mask))));
  return x;
}
INLINE Floats load_signed(const uint8_t *p) {
  Floats x;
  EACH(x.v[i] = wasm_f32x4_convert_i32x4(wasm_i32x4_shr(wasm_i32x4_shl(four_of(p, i), 24), 24)));
  return x;
}
INLINE Floats load_powers(const uint8_t *p) {
  Floats powers;
  EACH({
    v128_t x = four_of(p, i), normal = wasm_i32x4_shl(wasm_i32x4_sub(x, wasm_i32x4_splat(1)), 23);
    // The two smallest powers, which are below the normal floats, are 2^21 and 2^22 as integers.
    v128_t tiny = wasm_i32x4_shl(wasm_i32x4_add(x, wasm_i32x4_splat(1)), 21);
    powers.v[i] = wasm_v128_bitselect(normal, tiny, wasm_i32x4_gt(x, wasm_i32x4_splat(1)));
  });
  return powers;
}
INLINE Ints dot(Ints sum, Quads weights, Quad inputs) {
  EACH(sum.v[i] = add_quarter(sum.v[i], weights.quarters[i], inputs));
  return sum;
}
#define dot_codes dot
#undef EACH
