// Matrix products, c (+)= a b, and what is made of them.
#include "vectors.h"

// --------------------------------------------------------------------------------------------------------- many rows
// Blocked so that a panel of b stays in the nearest cache and a tile of c in registers.

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
    if (m % 12 == 4 && m > 4) USE(8)  // 8 and 8 take less than 12 and 4
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

// depth rows of a panel, filled up with zeros; where b lies by columns, four by four entries at once
static void pack(real *panel, const real *b, long depth, long width, long row_b, long column_b) {
    long done = 0;
#if __has_builtin(__builtin_shufflevector)
    if (row_b == 1)
        for (; done + 4 <= width; done += 4) {
            const real *from = b + done * column_b;
            long l = 0;
            for (; l + 4 <= depth; l += 4) {
                four w = *(const four *)(from + l), x = *(const four *)(from + l + column_b);
                four y = *(const four *)(from + l + 2 * column_b), z = *(const four *)(from + l + 3 * column_b);
                four wx = __builtin_shufflevector(w, x, 0, 4, 1, 5), yz = __builtin_shufflevector(y, z, 0, 4, 1, 5);
                four xw = __builtin_shufflevector(w, x, 2, 6, 3, 7), zy = __builtin_shufflevector(y, z, 2, 6, 3, 7);
                real *to = panel + l * COLUMNS + done;
                *(four *)to = __builtin_shufflevector(wx, yz, 0, 1, 4, 5);
                *(four *)(to + COLUMNS) = __builtin_shufflevector(wx, yz, 2, 3, 6, 7);
                *(four *)(to + 2 * COLUMNS) = __builtin_shufflevector(xw, zy, 0, 1, 4, 5);
                *(four *)(to + 3 * COLUMNS) = __builtin_shufflevector(xw, zy, 2, 3, 6, 7);
            }
            for (; l < depth; l++)
                for (long q = 0; q < 4; q++) panel[l * COLUMNS + done + q] = from[l + q * column_b];
        }
#endif
    for (long l = 0; l < depth; l++) {
        real *to = panel + l * COLUMNS;
        const real *from = b + l * row_b;
        if (column_b == 1 && width == COLUMNS) {
            *(vec *)to = *(const vec *)from;
            *(vec *)(to + LANES) = *(const vec *)(from + LANES);
            continue;
        }
        for (long q = done; q < width; q++) to[q] = from[q * column_b];
        for (long q = width; q < COLUMNS; q++) to[q] = 0;
    }
}

void mixer_product(long m, long n, long k, const real *a, long row_a, long column_a, const real *b, long row_b,
                   long column_b, real *c, long row_c, int add) {
    if (row_b == 1 && column_a == 1 && k >= LANES && (m <= 4 || (8 * m <= k && m <= 8 * ROWS))) {
        mixer_dots(m, n, k, a, row_a, 1, b, 0, column_b, c, row_c, 1, add);
        return;
    }
    real panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    real edge[ROWS * COLUMNS] __attribute__((aligned(64)));
    for (long start = 0; start < k; start += DEPTH) {
        long depth = k - start < DEPTH ? k - start : DEPTH;
        int more = add || start > 0;
        for (long j = 0; j < n; j += COLUMNS) {
            long width = n - j < COLUMNS ? n - j : COLUMNS;
            const real *here = b + start * row_b + j * column_b;
            long row = row_b;
            if (column_b != 1 || width < COLUMNS || (m >= 4 * ROWS && row_b >= 256)) {
                pack(panel, here, depth, width, row_b, column_b);
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

// --------------------------------------------------------------------------------------------- triangular solves

// w += L w, row after row, in place: a block of rows by one product of what is done, then the few within it
void mixer_solve(long n, long columns, const real *l, long row, long column, real *w, long row_w) {
    for (long start = 0; start < n; start += 8) {
        long rows = n - start < 8 ? n - start : 8, j = 0;
        const real *corner = l + start * (row + column);
        real *here = w + start * row_w;
        if (start) mixer_product(rows, columns, start, l + start * row, row, column, w, row_w, 1, here, row_w, 1);
        for (; j + LANES <= columns; j += LANES) {
            vec done[8];
            for (long i = 0; i < rows; i++) {
                done[i] = *(const vec *)(here + i * row_w + j);
                for (long k = 0; k < i; k++) done[i] += corner[i * row + k * column] * done[k];
                *(vec *)(here + i * row_w + j) = done[i];
            }
        }
        for (; j < columns; j++)
            for (long i = 1; i < rows; i++)
                for (long k = 0; k < i; k++) here[i * row_w + j] += corner[i * row + k * column] * here[k * row_w + j];
    }
}
