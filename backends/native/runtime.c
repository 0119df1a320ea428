// Matrix products and Fourier transforms for the emitted programs; compiled once for each precision.
#include "program.h"
#include <stdlib.h>

// ------------------------------------------------------------------------------------------------ matrix products
// c (+)= a b, blocked so that a panel of b stays in the nearest cache and a tile of c in registers.

#if defined(__AVX512F__)
#define WIDTH 64
#define ROWS 12
#elif defined(__AVX__)
#define WIDTH 32
#define ROWS 6
#else
#define WIDTH 16
#define ROWS 4
#endif
#define LANES ((long)(WIDTH / sizeof(real)))
#define COLUMNS (2 * LANES)
#define DEPTH 256

typedef real vec __attribute__((vector_size(WIDTH), aligned(sizeof(real)), may_alias));

#define TILE(R)                                                                                                       \
    static void tile_##R(long k, const real *restrict a, long row_a, long column_a, const real *restrict b,           \
                         long row_b, real *restrict c, long row_c, int add) {                                         \
        vec sum[R][2];                                                                                                \
        for (int i = 0; i < R; i++) {                                                                                 \
            sum[i][0] = add ? *(const vec *)(c + i * row_c) : (vec){0};                                               \
            sum[i][1] = add ? *(const vec *)(c + i * row_c + LANES) : (vec){0};                                       \
        }                                                                                                             \
        for (long l = 0; l < k; l++) {                                                                                \
            vec left = *(const vec *)(b + l * row_b), right = *(const vec *)(b + l * row_b + LANES);                  \
            _Pragma("GCC unroll 12") for (int i = 0; i < R; i++) {                                                    \
                real x = a[i * row_a + l * column_a];                                                                 \
                sum[i][0] += x * left;                                                                                \
                sum[i][1] += x * right;                                                                               \
            }                                                                                                         \
        }                                                                                                             \
        for (int i = 0; i < R; i++) {                                                                                 \
            *(vec *)(c + i * row_c) = sum[i][0];                                                                      \
            *(vec *)(c + i * row_c + LANES) = sum[i][1];                                                              \
        }                                                                                                             \
    }
#if ROWS >= 12
TILE(12)
TILE(8)
#endif
#if ROWS >= 6
TILE(6)
#endif
TILE(4)
TILE(2)
TILE(1)

static long tile(long m, long k, const real *a, long row_a, long column_a, const real *b, long row_b, real *c,
                 long row_c, int add) {
#define USE(R) if (m >= R) { tile_##R(k, a, row_a, column_a, b, row_b, c, row_c, add); return R; }
#if ROWS >= 12
    USE(12)
    USE(8)
#endif
#if ROWS >= 6
    USE(6)
#endif
    USE(4)
    USE(2)
    USE(1)
    return 1;
}

void mixer_product(long m, long n, long k, const real *a, long row_a, long column_a, const real *b, long row_b,
                   long column_b, real *c, long row_c, int add) {
    real panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    real edge[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long start = 0; start < k; start += DEPTH) {
        long depth = k - start < DEPTH ? k - start : DEPTH;
        int more = add || start > 0;
        for (long j = 0; j < n; j += COLUMNS) {
            long width = n - j < COLUMNS ? n - j : COLUMNS;
            const real *here = b + start * row_b + j * column_b;
            long row = row_b;
            if (column_b != 1 || width < COLUMNS) {
                if (row_b == 1) {
                    for (long q = 0; q < width; q++)
                        for (long l = 0; l < depth; l++) panel[l * COLUMNS + q] = here[q * column_b + l];
                } else {
                    for (long l = 0; l < depth; l++)
                        for (long q = 0; q < width; q++) panel[l * COLUMNS + q] = here[l * row_b + q * column_b];
                }
                for (long l = 0; l < depth; l++)
                    for (long q = width; q < COLUMNS; q++) panel[l * COLUMNS + q] = 0;
                here = panel;
                row = COLUMNS;
            }
            const real *left = a + start * column_a;
            for (long i = 0; i < m;) {
                real *to = c + i * row_c + j;
                if (width == COLUMNS) {
                    i += tile(m - i, depth, left + i * row_a, row_a, column_a, here, row, to, row_c, more);
                    continue;
                }
                long rows = tile(m - i, depth, left + i * row_a, row_a, column_a, here, row, edge, COLUMNS, 0);
                for (long r = 0; r < rows; r++)
                    for (long q = 0; q < width; q++)
                        to[r * row_c + q] = (more ? to[r * row_c + q] : 0) + edge[r * COLUMNS + q];
                i += rows;
            }
        }
    }
}

// --------------------------------------------------------------------------------------------- Fourier transforms
// Radix 2 where n is a power of two; otherwise as a convolution with a chirp, of a length that is (Bluestein).

typedef double _Complex wide;

typedef struct plan {
    long n, m;         // the length; the power of two that is worked in
    wide *roots;       // e^{−2πi j / m}, j < m / 2
    wide *chirp;       // e^{−πi j² / n}, j < n; absent for powers of two
    wide *filter;      // the transform of its conjugate, wrapped, over m
    struct plan *next;
} plan;

static void radix_two(const plan *p, wide *x) {
    long n = p->m;
    for (long i = 1, j = 0; i < n; i++) {
        long bit = n >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i < j) { wide z = x[i]; x[i] = x[j]; x[j] = z; }
    }
    for (long half = 1; half < n; half *= 2) {
        long step = n / (2 * half);
        for (long i = 0; i < n; i += 2 * half)
            for (long j = 0; j < half; j++) {
                wide u = x[i + j], v = x[i + j + half] * p->roots[j * step];
                x[i + j] = u + v;
                x[i + j + half] = u - v;
            }
    }
}

static plan *planned(long n) {
    const double tau = 6.283185307179586476925;
    plan *p = calloc(1, sizeof(plan));
    p->n = n;
    for (p->m = 1; p->m < n; p->m *= 2) {}
    int chirped = p->m != n;
    if (chirped) for (p->m = 1; p->m < 2 * n; p->m *= 2) {}
    p->roots = malloc(sizeof(wide) * (p->m / 2 + 1));
    for (long j = 0; j <= p->m / 2; j++) p->roots[j] = CMPLX(cos(tau * j / p->m), -sin(tau * j / p->m));
    if (chirped) {
        p->chirp = malloc(sizeof(wide) * n);
        p->filter = calloc(p->m, sizeof(wide));
        for (long j = 0; j < n; j++) {
            double at = tau / 2 * (double)((__int128)j * j % (2 * n)) / n;
            p->chirp[j] = CMPLX(cos(at), -sin(at));
            p->filter[j] = conj(p->chirp[j]);
            if (j) p->filter[p->m - j] = p->filter[j];
        }
        radix_two(p, p->filter);
        for (long j = 0; j < p->m; j++) p->filter[j] /= p->m;
    }
    return p;
}

static const plan *plan_of(long n) {
    static plan *known = NULL;
    plan *found = NULL;
#pragma omp critical(mixer_plans)
    {
        for (plan *p = known; p && !found; p = p->next) if (p->n == n) found = p;
        if (!found) {
            found = planned(n);
            found->next = known;
            known = found;
        }
    }
    return found;
}

static void forward(const plan *p, wide *x) {
    if (!p->chirp) {
        radix_two(p, x);
        return;
    }
    for (long j = 0; j < p->n; j++) x[j] *= p->chirp[j];
    for (long j = p->n; j < p->m; j++) x[j] = 0;
    radix_two(p, x);
    for (long j = 0; j < p->m; j++) x[j] = conj(x[j] * p->filter[j]);
    radix_two(p, x);
    for (long j = 0; j < p->n; j++) x[j] = conj(x[j]) * p->chirp[j];
}

// which: 0 fft, 1 ifft, 2 rfft, 3 irfft; steps count numbers of the array's own kind
void mixer_transform(int which, long n, const void *from, long step_x, void *to, long step_y) {
    const plan *p = plan_of(n);
    wide *work = malloc(sizeof(wide) * p->m);
    const cplx *x = from;
    int inverse = which == 1 || which == 3;
    for (long j = 0; j < n; j++) {
        if (which == 2) work[j] = ((const real *)from)[j * step_x];
        else if (which == 3 && j > n / 2) work[j] = conj((wide)x[(n - j) * step_x]);
        else work[j] = x[j * step_x];
        if (which == 3 && (j == 0 || 2 * j == n)) work[j] = creal(work[j]);
        if (inverse) work[j] = conj(work[j]);
    }
    forward(p, work);
    long made = which == 2 ? n / 2 + 1 : n;
    for (long j = 0; j < made; j++) {
        wide y = inverse ? conj(work[j]) / n : work[j];
        if (which == 3) ((real *)to)[j * step_y] = creal(y);
        else ((cplx *)to)[j * step_y] = y;
    }
    free(work);
}
