/* Sixteen lanes of float and int32 for the vector kernels: one 512-bit register with AVX-512, two of 256 bits with AVX2.
 *
 * Both ways do the same IEEE operations lane by lane and reduce in the same order, so that both kernel sets give the same bits.
 * Included by kernels_cpu_simd.h alone.
 */
#ifndef ENGINE_KERNELS_CPU_LANES_H
#define ENGINE_KERNELS_CPU_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512VNNI__)

typedef __m512 vf;  /* 16 floats */
typedef __m512i vi; /* 16 int32 */
typedef __m512i vb; /* 64 unsigned bytes: 4 columns of each lane */

INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
INLINE __mmask16 lanes_below(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}
INLINE vf vf_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(lanes_below(n), p);
}
INLINE void vf_store_n(float *p, uint32_t n, vf x)
{
    _mm512_mask_storeu_ps(p, lanes_below(n), x);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
} /* a * b + c */
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
} /* c - a * b */
INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
INLINE vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE __m256 vf_low(vf a)
{
    return _mm512_castps512_ps256(a);
}
INLINE __m256 vf_high(vf a)
{
    return _mm512_extractf32x8_ps(a, 1);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE void vf_store_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE vf vf_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
INLINE vf vf_from_i(vi x)
{
    return _mm512_cvtepi32_ps(x);
}
INLINE vi vi_from_f(vf x)
{
    return _mm512_cvtps_epi32(x);
} /* to nearest */
INLINE vi vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
INLINE int32_t vi_sum(vi x)
{
    return _mm512_reduce_add_epi32(x);
}
INLINE void vi_store_i8(int8_t *p, vi x)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x));
}
/* 2^x for integral x in the normal range. */
INLINE vf vf_pow2(vf x)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127)), 23));
}
INLINE vb vb_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
INLINE vb vb_and(vb a, int m)
{
    return _mm512_and_si512(a, _mm512_set1_epi8((char)m));
}
INLINE vb vb_or(vb a, vb b)
{
    return _mm512_or_si512(a, b);
}
INLINE vb vb_shr(vb a, int n)
{
    return _mm512_srli_epi16(a, (unsigned)n);
} /* bits cross bytes: mask after it */
INLINE vb vb_shl(vb a, int n)
{
    return _mm512_slli_epi16(a, (unsigned)n);
}
/* acc + for each lane the dot product of its 4 bytes of w with the 4 signed bytes at x. */
INLINE vi vi_dot(vi acc, vb w, const int8_t *x, int bits)
{
    int32_t x4;

    (void)bits;
    memcpy(&x4, x, 4);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x4));
}

#else

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;
typedef vi vb;

#define BOTH(type, fn) ((type){fn(x.a), fn(x.b)})

INLINE vf vf_set1(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
INLINE vf vf_load_n(const float *p, uint32_t n)
{
    float all[16] = {0};

    memcpy(all, p, n * sizeof(float));
    return vf_load(all);
}
INLINE void vf_store_n(float *p, uint32_t n, vf x)
{
    float all[16];

    vf_store(all, x);
    memcpy(p, all, n * sizeof(float));
}
INLINE vf vf_add(vf x, vf y)
{
    return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE vf vf_sub(vf x, vf y)
{
    return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE vf vf_mul(vf x, vf y)
{
    return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE vf vf_div(vf x, vf y)
{
    return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
INLINE vf vf_max(vf x, vf y)
{
    return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
INLINE vf vf_min(vf x, vf y)
{
    return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
INLINE vf vf_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE vf vf_fnma(vf x, vf y, vf z)
{
    return (vf){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
INLINE vf vf_abs(vf x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);

    return (vf){_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
INLINE vf vf_round(vf x)
{
    return (vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE __m256 vf_low(vf x)
{
    return x.a;
}
INLINE __m256 vf_high(vf x)
{
    return x.b;
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
INLINE __m256 load_bf16_8(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    return (vf){load_bf16_8(p), load_bf16_8(p + 8)};
}
INLINE void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_from_i(vi x)
{
    return BOTH(vf, _mm256_cvtepi32_ps);
}
INLINE vf vf_from_u8(const uint8_t *p)
{
    return vf_from_i((vi){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
INLINE vf vf_from_i8(const uint8_t *p)
{
    return vf_from_i((vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
INLINE vi vi_from_f(vf x)
{
    return BOTH(vi, _mm256_cvtps_epi32);
}
INLINE vi vi_set1(int32_t x)
{
    return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
INLINE vi vi_add(vi x, vi y)
{
    return (vi){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
INLINE int32_t vi_sum(vi x)
{
    int32_t all[8], sum = 0;

    _mm256_storeu_si256((__m256i *)all, _mm256_add_epi32(x.a, x.b));
    for (int i = 0; i < 8; i++)
        sum += all[i];
    return sum;
}
INLINE void vi_store_i8(int8_t *p, vi x)
{
    int32_t all[16];

    _mm256_storeu_si256((__m256i *)all, x.a);
    _mm256_storeu_si256((__m256i *)(all + 8), x.b);
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)all[i];
}
INLINE __m256 pow2_half(__m256 x)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127)), 23));
}
INLINE vf vf_pow2(vf x)
{
    return BOTH(vf, pow2_half);
}
INLINE vb vb_load(const uint8_t *p)
{
    return (vb){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE vb vb_and(vb x, int m)
{
    return (vb){_mm256_and_si256(x.a, _mm256_set1_epi8((char)m)),
                _mm256_and_si256(x.b, _mm256_set1_epi8((char)m))};
}
INLINE vb vb_or(vb x, vb y)
{
    return (vb){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
INLINE vb vb_shr(vb x, int n)
{
    return (vb){_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
}
INLINE vb vb_shl(vb x, int n)
{
    return (vb){_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
}
INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i x, int bits)
{
    __m256i even, odd;

    if (bits < 8) /* 2 * 63 * 127 fits in 16 bits */
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
    even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(0xff)),
                             _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
INLINE vi vi_dot(vi acc, vb w, const int8_t *x, int bits)
{
    int32_t x4;
    __m256i all;

    memcpy(&x4, x, 4);
    all = _mm256_set1_epi32(x4);
    return (vi){dot_half(acc.a, w.a, all, bits), dot_half(acc.b, w.b, all, bits)};
}

#undef BOTH
#endif

/* Reductions: the same tree for both widths. */
INLINE float vf_sum(vf x)
{
    __m256 eight = _mm256_add_ps(vf_low(x), vf_high(x));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

INLINE float vf_hmax(vf x)
{
    __m256 eight = _mm256_max_ps(vf_low(x), vf_high(x));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* e^x to about 2 units in the last place: x = n ln 2 + r, a polynomial of degree 6 for e^r (its coefficients are the Taylor series,
 * good for |r| <= ln 2 / 2), times 2^n. Below -87 the result is 0 or close to it; above 88 it is clamped. */
INLINE vf vf_exp(vf x)
{
    vf n, r, p;

    x = vf_max(vf_min(x, vf_set1(88.0f)), vf_set1(-87.3f));
    n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
    r = vf_fnma(n, vf_set1(0.693359375f), x);
    r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
    p = vf_set1(1.0f / 720);
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_mul(p, vf_pow2(n));
}

#endif
