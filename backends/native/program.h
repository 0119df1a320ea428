// What every emitted program stands on: the types of numbers, and functions that run in vector loops.
// REAL is float or double (-DDOUBLE); functions are branch-free, keep NaN, and are right at ±inf and for denormals.
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FN static inline __attribute__((always_inline, unused))
#define OUTSIDE static __attribute__((noinline, unused))

#ifdef DOUBLE
typedef double real;
typedef double _Complex cplx;
typedef int64_t bits;
typedef uint64_t ubits;
#define LIBM(name) name
#define CLIBM(name) name
#define LN2_HI 6.93147180369123816490e-01
#define LN2_LO 1.90821492927058770002e-10
#define BIAS 1023
#define MANTISSA 52
#define EXP_MOST 710.5
#define EXP_LEAST -750.0
#define SHIFT 6755399441057790.0
#define SMALLEST_NORMAL 2.2250738585072014e-308
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdLL
#define MAKE_COMPLEX CMPLX
#else
typedef float real;
typedef float _Complex cplx;
typedef int32_t bits;
typedef uint32_t ubits;
#define LIBM(name) name##f
#define CLIBM(name) name##f
#define LN2_HI 0.693359375f
#define LN2_LO -2.12194440e-4f
#define BIAS 127
#define MANTISSA 23
#define EXP_MOST 89.5f
#define EXP_LEAST -106.0f
#define SHIFT 12583166.0f
#define SMALLEST_NORMAL 1.17549435e-38f
#define SQRT_HALF_BITS 0x3f3504f3
#define MAKE_COMPLEX CMPLXF
#endif
#define INF ((real)__builtin_inf())

FN bits bits_of(real x) { union { real x; bits i; } u = {.x = x}; return u.i; }
FN real real_of(bits i) { union { bits i; real x; } u = {.i = i}; return u.x; }
#ifndef DOUBLE
// Numbers of two bytes, read and written where they lie; all that is computed is computed in float.
FN real from_bfloat16(uint16_t x) { return real_of((bits)((uint32_t)x << 16)); }
FN uint16_t to_bfloat16(real x) {
    uint32_t i = (uint32_t)bits_of(x), even = (i + 0x7fff + (i >> 16 & 1)) >> 16;
    return x != x ? 0x7fc0 : even;
}
FN real from_float16(uint16_t x) {
    uint32_t w = (uint32_t)x << 16, twice = w + w;
    real normal = real_of((bits)((twice >> 4) + (0xe0u << 23))) * 0x1p-112f;
    real small = real_of((bits)((twice >> 17) | (126u << 23))) - 0.5f;
    uint32_t magnitude = (uint32_t)bits_of(twice < (1u << 27) ? small : normal);
    return real_of((bits)((w & 0x80000000u) | magnitude));
}
FN uint16_t to_float16(real x) {
    uint32_t w = (uint32_t)bits_of(x), twice = w + w, bias = twice & 0xff000000u;
    real base = (real_of((bits)(w & 0x7fffffffu)) * 0x1p+112f) * 0x1p-110f;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    uint32_t i = (uint32_t)bits_of(real_of((bits)((bias >> 1) + 0x07800000u)) + base);
    uint32_t magnitude = twice > 0xff000000u ? 0x7e00 : (i >> 13 & 0x7c00) + (i & 0x0fff);
    return (uint16_t)(w >> 16 & 0x8000) | (uint16_t)magnitude;
}
#endif
FN real two_to(bits n) { return real_of((n + BIAS) << MANTISSA); }
FN real larger(real x, real y) { return x > y || x != x ? x : y; }
FN real smaller(real x, real y) { return x < y || x != x ? x : y; }

// e^r − 1 for |r| ≤ ln 2 / 2
FN real expm1_near_zero(real r) {
#ifdef DOUBLE
    real p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
#else
    real p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
#endif
    return p * (r * r) + r;
}

// x = n ln 2 + r
FN real reduced(real x, real n) { return (x - n * LN2_HI) - n * LN2_LO; }
FN real halves_of(real x) { return LIBM(__builtin_rint)(x * (real)1.4426950408889634); }

// e^r for |r| ≤ ln 2 / 2, within a twentieth of a unit in the last place
FN real exp_near_zero(real r) {
#ifdef DOUBLE
    return expm1_near_zero(r) + 1;
#else
    real p = 0.0013814320554956794f;
    p = p * r + 0.008368851616978645f;
    p = p * r + 0.041668400168418884f;
    p = p * r + 0.1666651964187622f;
    p = p * r + 0.4999999403953552f;
    p = p * r + 1;
    return p * r + 1;
#endif
}

// x between two bounds of either sign, by the order of its bits: two instructions, where comparing numbers takes more
FN real clamped(real x, real least, real most) {
    ubits u = (ubits)bits_of(x), low = (ubits)bits_of(least);
    bits i = (bits)(u < low ? u : low), high = bits_of(most);
    return real_of(i < high ? i : high);
}

// Adding SHIFT leaves n = x / ln 2, rounded, in the last bits of a sum, and with it twice the bias of an exponent;
// 2ⁿ goes in as two factors, so that neither overflows where the result does not, and denormals are rounded once.
FN real m_exp(real x) {
    real y = clamped(x, EXP_LEAST, EXP_MOST), sum = y * (real)1.4426950408889634 + SHIFT;
    ubits n = (ubits)bits_of(sum), half = n >> 1;
    real e = exp_near_zero(reduced(y, sum - SHIFT));
    e = e * real_of((bits)(half << MANTISSA)) * real_of((bits)((n - half) << MANTISSA));
    return x == x ? e : x;
}

FN real m_expm1(real x) {
    real y = x > EXP_MOST - 10 ? EXP_MOST - 10 : x;
    y = y < -60 ? -60 : y;
    real n = halves_of(y), s = two_to((int)n);
    real near = s * expm1_near_zero(reduced(y, n)) + (s - 1);
    near = y == 0 ? y : near;
    return x > EXP_MOST - 10 ? m_exp(x) : near;
}

FN real m_log(real x) {
    int tiny = x < SMALLEST_NORMAL;
    real y = tiny ? x * two_to(MANTISSA) : x;
    bits i = bits_of(y) + (((bits)BIAS << MANTISSA) - SQRT_HALF_BITS);
    int k = (int)(i >> MANTISSA) - BIAS - (tiny ? MANTISSA : 0);
    real f = real_of((i & (((bits)1 << MANTISSA) - 1)) + SQRT_HALF_BITS) - 1;
    real s = f / (2 + f), z = s * s, w = z * z, half = (real)0.5 * f * f, n = (real)k;
#ifdef DOUBLE
    real t1 = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    real t2 = w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01);
    t2 = z * (6.666666666666735130e-01 + w * (2.857142874366239149e-01 + t2));
    real result = n * LN2_HI - ((half - (s * (half + t1 + t2) + n * LN2_LO)) - f);
#else
    real t1 = w * (0.40000972152f + w * 0.24279078841f);
    real t2 = z * (0.66666662693f + w * 0.28498786688f);
    real result = n * 6.9313812256e-01f - ((half - (s * (half + t1 + t2) + n * 9.0580006145e-06f)) - f);
#endif
    result = x == INF ? INF : result;
    result = x == 0 ? -INF : result;
    return x >= 0 ? result : (real)__builtin_nan("");
}

FN real m_log1p(real x) {
    real u = 1 + x, lost = x - (u - 1);
    real result = m_log(u) + (u > 0 ? lost / u : 0);
    result = x == INF ? x : result;
    return x == 0 ? x : result;
}

FN real m_abs(real x) { return LIBM(__builtin_fabs)(x); }

FN real m_sigmoid(real x) {
    real e = m_exp(-m_abs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

FN real m_softplus(real x) { return (x > 0 ? x : 0) + m_log1p(m_exp(-m_abs(x))); }

FN real m_tanh(real x) {
    real y = m_abs(x), e = m_expm1(2 * (y > 30 ? 30 : y));
    real t = e / (e + 2);
    t = x != x ? x : t;
    return LIBM(__builtin_copysign)(t, x);
}

FN real m_sqrt(real x) { return LIBM(__builtin_sqrt)(x); }
FN real m_sign(real x) { return x != x ? x : (real)((x > 0) - (x < 0)); }
#ifdef DOUBLE
OUTSIDE real m_sin(real x) { return LIBM(sin)(x); }
OUTSIDE real m_cos(real x) { return LIBM(cos)(x); }
#else
// |x| = number · π/2 + r. Below 2²⁰ the product is exact; above, |x| is a whole number times 2ᵉ, and times the digits of
// 1 / 2π from the e-th on it is the part of a turn: what goes over 64 bits is whole turns.
FN float in_quarters(float x, int *number) {
    static const uint64_t turn[] = {0x0517cc1b727220a9ULL, 0x4fe13abe8fa9a6eeULL, 0x06db14acc9e21c82ULL}; // three places further right
    float a = m_abs(x);
    ubits i = bits_of(a);
    int e = (int)(i >> MANTISSA) - 147, at = e < 0 ? 0 : e, last = at & 63;
    uint64_t whole = (i & 0x7fffff) | 0x800000, digits = turn[at >> 6] << last | turn[(at >> 6) + 1] >> 1 >> (63 - last);
    double far = (double)(int32_t)(whole * digits >> 32) * 0x1p-30, near = a * 0.63661977236758134308;
    double t = a < 0x1p20f ? near : far, n = __builtin_rint(t);
    near = (a - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
    *number = (int)n;
    return a < 0x1p20f ? near : (t - n) * 1.57079632679489661923;
}

// sine (or with one quarter more, cosine) of r + number · π/2
FN float of_quarters(float r, int number) {
    float z = r * r;
    float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1;
    float y = number & 1 ? c : s;
    return number & 2 ? -y : y;
}

FN float m_sin(float x) {
    int n;
    float r = in_quarters(x, &n), y = of_quarters(r, n);
    y = bits_of(x) < 0 ? -y : y;
    return x - x == 0 ? y : x - x;
}

FN float m_cos(float x) {
    int n;
    float r = in_quarters(x, &n), y = of_quarters(r, n + 1);
    return x - x == 0 ? y : x - x;
}
#endif
OUTSIDE real m_erf(real x) { return LIBM(erf)(x); }
OUTSIDE real m_pow(real x, real y) { return LIBM(pow)(x, y); }

OUTSIDE real m_mod(real x, real y) {
    real m = LIBM(fmod)(x, y);
    return m != 0 && (m < 0) != (y < 0) ? m + y : m;
}

OUTSIDE real m_floordiv(real x, real y) {
    if (y == 0) return x / y;
    real m = LIBM(fmod)(x, y), q = (x - m) / y;
    if (m != 0 && (m < 0) != (y < 0)) q -= 1;
    real whole = LIBM(floor)(q);
    return q - whole > (real)0.5 ? whole + 1 : whole;
}

// ------------------------------------------------------------------------------------------------ whole numbers

FN int64_t i_larger(int64_t x, int64_t y) { return x > y ? x : y; }
FN int64_t i_smaller(int64_t x, int64_t y) { return x < y ? x : y; }
FN int64_t i_sign(int64_t x) { return (x > 0) - (x < 0); }

FN int64_t i_floordiv(int64_t x, int64_t y) {
    if (y == 0) return 0;
    return x / y - (x % y != 0 && (x < 0) != (y < 0));
}

FN int64_t i_mod(int64_t x, int64_t y) { return y == 0 ? 0 : x - y * i_floordiv(x, y); }

OUTSIDE int64_t i_pow(int64_t x, int64_t n) {
    int64_t y = n < 0 ? (x == 1 || x == -1) : 1;
    if (n < 0) { n = -n; y *= 1; }
    for (; n > 0; n >>= 1, x *= x) if (n & 1) y *= x;
    return y;
}

// ----------------------------------------------------------------------------------------------- complex numbers

FN real c_real(cplx x) { return CLIBM(__builtin_creal)(x); }
FN real c_imag(cplx x) { return CLIBM(__builtin_cimag)(x); }
FN cplx c_conj(cplx x) { return MAKE_COMPLEX(c_real(x), -c_imag(x)); }
OUTSIDE real c_abs(cplx x) { return CLIBM(cabs)(x); }
#ifdef DOUBLE
OUTSIDE cplx c_exp(cplx x) { return CLIBM(cexp)(x); }
#else
FN cplx c_exp(cplx x) {
    float re = c_real(x), im = c_imag(x), s, c;
    int n;
    float r = in_quarters(im, &n), far = re > 80 ? 8 : 0, e = m_exp(re - far), k = re > 80 ? 2980.9579870417283f : 1;
    s = im == 0 ? im : (bits_of(im) < 0 ? -1 : 1) * of_quarters(r, n) * e * k;
    c = of_quarters(r, n + 1) * e * k;
    int finite = im - im == 0, none = re == -INF;
    return MAKE_COMPLEX(finite ? c : none ? 0 : im - im, finite ? s : none ? 0 : im - im);
}
#endif
OUTSIDE cplx c_log(cplx x) { return CLIBM(clog)(x); }
OUTSIDE cplx c_log1p(cplx x) { return CLIBM(clog)(1 + x); }
OUTSIDE cplx c_expm1(cplx x) { return CLIBM(cexp)(x) - 1; }
OUTSIDE cplx c_sqrt(cplx x) { return CLIBM(csqrt)(x); }
OUTSIDE cplx c_tanh(cplx x) { return CLIBM(ctanh)(x); }
OUTSIDE cplx c_sin(cplx x) { return CLIBM(csin)(x); }
OUTSIDE cplx c_cos(cplx x) { return CLIBM(ccos)(x); }
OUTSIDE cplx c_sigmoid(cplx x) { return 1 / (1 + CLIBM(cexp)(-x)); }
OUTSIDE cplx c_softplus(cplx x) { return CLIBM(clog)(1 + CLIBM(cexp)(x)); }
OUTSIDE cplx c_sign(cplx x) { real r = c_abs(x); return r == 0 ? 0 : x / r; }

OUTSIDE cplx c_pow(cplx x, cplx y) {
    if (y == 0) return 1;
    if (x == 0) return c_real(y) > 0 ? 0 : (cplx)(1 / (real)0);
    return CLIBM(cpow)(x, y);
}

// ------------------------------------------------------------------------------------- what the routines bring

#ifdef _OPENMP
int omp_get_thread_num(void);
FN int thread_number(void) { return omp_get_thread_num(); }
#else
FN int thread_number(void) { return 0; }
#endif

#ifdef DOUBLE
#define mixer_product mixer_product_double
#define mixer_transforms mixer_transforms_double
#define mixer_dots mixer_dots_double
#define mixer_solve mixer_solve_double
#define mixer_decay mixer_decay_double
#define mixer_decay_back mixer_decay_back_double
#endif
void mixer_product(long m, long n, long k, const real *a, long row_a, long column_a, const real *b, long row_b,
                   long column_b, real *c, long row_c, int add);
void mixer_dots(long m, long n, long k, const real *a, long row_a, long column_a, const void *b, int format, long column_b,
                real *c, long row_c, long column_c, int add);
void mixer_solve(long n, long columns, const real *l, long row, long column, real *w, long row_w);
void mixer_transforms(int which, long n, long count, const void *x, long step_x, long apart_x, void *y, long step_y,
                      long apart_y);

// steps by keys: a row, before or after its own step, or a column; where its carried values, or its cotangents, lie
typedef struct {
    enum { ROW_BEFORE, ROW_AFTER, COLUMN } what;
    const real *from;
    long row, key;
    real *to;
    long to_row, to_key;
    const real *ct;
    long ct_row, ct_key;
} mixer_vector;

// scores of the row x with the column y, written forward and read backward
typedef struct {
    long x, y;
    real *to;
    long row, column;
} mixer_pair;

void mixer_decay(long length, long keys, const real *g, long row, long key, long count, const mixer_vector *v, long pairs,
                 const mixer_pair *p, real *whole, long whole_key);
void mixer_decay_back(long length, long keys, const real *g, long row, long key, long count, const mixer_vector *v, long pairs,
                      const mixer_pair *p, const real *whole, long whole_key, real *to, long to_row, long to_key);
