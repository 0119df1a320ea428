// Matrix products of few rows: sums of what lies side by side.
// Every entry of c is a sum along a row of a and a column of b, both as they lie. Nothing is packed: the columns, which
// may take two bytes a number, are read once from one end to the other for up to four rows, which memory bounds.
#include "vectors.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef DOUBLE
typedef uint16_t narrow __attribute__((vector_size(WIDTH / 2), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(WIDTH), aligned(4), may_alias));

FN vec lanes_of_bfloat16(const uint16_t *x) {
    return (vec)(__builtin_convertvector(*(const narrow *)x, words) << 16);
}

FN vec lanes_of_float16(const uint16_t *x) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)x));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
#else
    vec v = {0};
    for (long i = 0; i < LANES; i++) v[i] = from_float16(x[i]);
    return v;
#endif
}
#endif

FN vec lanes_of_real(const real *x) { return *(const vec *)x; }
FN real from_real(real x) { return x; }

FN four folded(vec v) {
    four part[LANES / 4];
    memcpy(part, &v, sizeof v);
    four sum = part[0];
    for (unsigned i = 1; i < LANES / 4; i++) sum += part[i];
    return sum;
}

// the sums of four vectors
FN four sums_of(vec v0, vec v1, vec v2, vec v3) {
    four w = folded(v0), x = folded(v1), y = folded(v2), z = folded(v3);
#if __has_builtin(__builtin_shufflevector)
    four wx = __builtin_shufflevector(w, x, 0, 4, 1, 5), yz = __builtin_shufflevector(y, z, 0, 4, 1, 5);
    four xw = __builtin_shufflevector(w, x, 2, 6, 3, 7), zy = __builtin_shufflevector(y, z, 2, 6, 3, 7);
    return (__builtin_shufflevector(wx, yz, 0, 1, 4, 5) + __builtin_shufflevector(wx, yz, 2, 3, 6, 7)) +
           (__builtin_shufflevector(xw, zy, 0, 1, 4, 5) + __builtin_shufflevector(xw, zy, 2, 3, 6, 7));
#else
    return (four){w[0] + w[1] + w[2] + w[3], x[0] + x[1] + x[2] + x[3], y[0] + y[1] + y[2] + y[3],
                  z[0] + z[1] + z[2] + z[3]};
#endif
}

typedef struct {
    long k, row_a, column_b, row_c, column_c;
    int add;
} shape;

// M rows by N columns, N being 4 or 1, each sum in U parts
#define DOTS(M, N, U, TYPE, FORMAT)                                                                                   \
    FN void dots_##M##_##N##_##FORMAT(const shape s, const real *a, const TYPE *b, real *c) {                         \
        vec sum[M][N][U], x[M];                                                                                       \
        long l = 0;                                                                                                   \
        for (int i = 0; i < M * N * U; i++) sum[i / (N * U)][i / U % N][i % U] = (vec){0};                            \
        for (; l + U * LANES <= s.k; l += U * LANES)                                                                  \
            _Pragma("GCC unroll 4") for (int u = 0; u < U; u++) STEP_OF_DOTS(M, N, FORMAT, l + u * LANES, u)          \
        if (U > 1) for (; l + LANES <= s.k; l += LANES) STEP_OF_DOTS(M, N, FORMAT, l, 0)                              \
        for (int i = 0; i < M; i++) {                                                                                 \
            real done[N];                                                                                             \
            for (int j = 0; j < N; j++)                                                                               \
                for (int u = 1; u < U; u++) sum[i][j][0] += sum[i][j][u];                                             \
            four f = N == 4 ? sums_of(sum[i][0][0], sum[i][N / 4][0], sum[i][N / 4 * 2][0], sum[i][N / 4 * 3][0])     \
                            : folded(sum[i][0][0]);                                                                   \
            if (N == 4) memcpy(done, &f, sizeof done);                                                                \
            else done[0] = (f[0] + f[1]) + (f[2] + f[3]);                                                             \
            for (int j = 0; j < N; j++) {                                                                             \
                real *to = c + i * s.row_c + j * s.column_c;                                                          \
                for (long q = l; q < s.k; q++) done[j] += a[i * s.row_a + q] * from_##FORMAT(b[j * s.column_b + q]);  \
                *to = (s.add ? *to : 0) + done[j];                                                                    \
            }                                                                                                         \
        }                                                                                                             \
    }
#define STEP_OF_DOTS(M, N, FORMAT, at, u)                                                                             \
    {                                                                                                                 \
        _Pragma("GCC unroll 6") for (int i = 0; i < M; i++) x[i] = lanes_of_real(a + i * s.row_a + (at));             \
        _Pragma("GCC unroll 4") for (int j = 0; j < N; j++) {                                                         \
            vec w = lanes_of_##FORMAT(b + j * s.column_b + (at));                                                     \
            _Pragma("GCC unroll 6") for (int i = 0; i < M; i++) sum[i][j][u] += x[i] * w;                             \
        }                                                                                                             \
    }

#define TAKE(M, N, FORMAT) case M: dots_##M##_##N##_##FORMAT(s, x, y, z); break;
#define DOTS_OF(TYPE, FORMAT)                                                                                         \
    DOTS(1, 1, 4, TYPE, FORMAT) DOTS(2, 1, 4, TYPE, FORMAT) DOTS(3, 1, 2, TYPE, FORMAT) DOTS(4, 1, 2, TYPE, FORMAT)   \
    DOTS(1, 4, 1, TYPE, FORMAT) DOTS(2, 4, 1, TYPE, FORMAT) DOTS(3, 4, 1, TYPE, FORMAT) DOTS(4, 4, 1, TYPE, FORMAT)   \
    DOTS(5, 4, 1, TYPE, FORMAT) DOTS(6, 4, 1, TYPE, FORMAT)                                                           \
    static void few_rows_##FORMAT(long m, long n, const shape s, const real *a, const TYPE *b, real *c) {             \
        long j = 0;                                                                                                   \
        for (; m > 4 && j + 4 <= n; j += 4)                                                                           \
            for (long i = 0, rows; i < m; i += rows) {                                                                \
                const real *x = a + i * s.row_a;                                                                      \
                const TYPE *y = b + j * s.column_b;                                                                   \
                real *z = c + i * s.row_c + j * s.column_c;                                                           \
                rows = m - i < DOT_ROWS ? m - i : DOT_ROWS;                                                           \
                switch (rows) {                                                                                       \
                    TAKE(1, 4, FORMAT) TAKE(2, 4, FORMAT) TAKE(3, 4, FORMAT) TAKE(4, 4, FORMAT) TAKE(5, 4, FORMAT)    \
                    TAKE(6, 4, FORMAT)                                                                                \
                }                                                                                                     \
            }                                                                                                         \
        for (; j < n; j++)                                                                                            \
            for (long i = 0; i < m; i += 4) {                                                                         \
                const real *x = a + i * s.row_a;                                                                      \
                const TYPE *y = b + j * s.column_b;                                                                   \
                real *z = c + i * s.row_c + j * s.column_c;                                                           \
                switch (m - i) {                                                                                      \
                    TAKE(1, 1, FORMAT) TAKE(2, 1, FORMAT) TAKE(3, 1, FORMAT)                                          \
                    default: dots_4_1_##FORMAT(s, x, y, z);                                                           \
                }                                                                                                     \
            }                                                                                                         \
    }
DOTS_OF(real, real)
#ifndef DOUBLE
DOTS_OF(uint16_t, bfloat16)
DOTS_OF(uint16_t, float16)
#endif

// format: 0 for real numbers in b, 1 for bfloat16, 2 for float16; column_a: how far apart the numbers of a row of a lie
void mixer_dots(long m, long n, long k, const real *a, long row_a, long column_a, const void *b, int format, long column_b,
                real *c, long row_c, long column_c, int add) {
    real *rows = NULL;
    if (column_a != 1 && k > 1) {
        rows = malloc(sizeof(real) * m * k);
        for (long i = 0; i < m; i++)
            for (long l = 0; l < k; l++) rows[i * k + l] = a[i * row_a + l * column_a];
        a = rows;
        row_a = k;
    }
    shape s = {k, row_a, column_b, row_c, column_c, add};
#ifndef DOUBLE
    if (format == 1) few_rows_bfloat16(m, n, s, a, b, c);
    else if (format == 2) few_rows_float16(m, n, s, a, b, c);
    else
#endif
        few_rows_real(m, n, s, a, b, c);
    free(rows);
}
