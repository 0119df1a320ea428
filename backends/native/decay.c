// Products of decays inside a segment by the tree of half-blocks (lowering/decay.py), and their adjoint.
// Blocks of m steps are paired. What stands between the two halves is a product of matrices; then the rows of the right
// half are carried over the left one, and the columns of the left half over the right one, where they lie.
#include "vectors.h"

typedef struct {
    long length, keys, size;  // steps, keys, and the power of two that the steps are filled up to
    real *factors;            // e to the sums of logarithms: of steps, of pairs of them, … of all
    real *sums;               // the sums, over blocks of the size that was reached last
    real *vectors, *back;     // one array of steps by keys for each vector, and for its cotangent
    real *saved;              // the halves that products read, level by level
    real *steps, *corner;     // three numbers a key; scores between two halves
} segment;

static void to_rows(real *to, long length, long keys, const real *from, long row, long key) {
    if (!from) memset(to, 0, sizeof(real) * length * keys);
    else if (key == 1)
        for (long i = 0; i < length; i++) {
#pragma omp simd
            for (long k = 0; k < keys; k++) to[i * keys + k] = from[i * row + k];
        }
    else
        for (long k = 0; k < keys; k++)
            for (long i = 0; i < length; i++) to[i * keys + k] = from[i * row + k * key];
}

static void from_rows(real *to, long row, long key, const real *from, long length, long keys) {
    if (key == 1)
        for (long i = 0; i < length; i++) {
#pragma omp simd
            for (long k = 0; k < keys; k++) to[i * row + k] = from[i * keys + k];
        }
    else
        for (long k = 0; k < keys; k++)
            for (long i = 0; i < length; i++) to[i * row + k * key] = from[i * keys + k];
}

// rows multiplied in place; as they were before, they are kept if there is where
static void scale(real *x, const real *by, long rows, long keys, real *kept) {
    for (long i = 0; i < rows; i++, x += keys) {
        if (kept) {
#pragma omp simd
            for (long k = 0; k < keys; k++) {
                kept[i * keys + k] = x[k];
                x[k] *= by[k];
            }
            continue;
        }
#pragma omp simd
        for (long k = 0; k < keys; k++) x[k] *= by[k];
    }
}

static void add_product(real *sum, const real *x, const real *y, long keys) {
#pragma omp simd
    for (long k = 0; k < keys; k++) sum[k] += x[k] * y[k];
}

static void add_times(real *sum, real c, const real *x, long keys) {
#pragma omp simd
    for (long k = 0; k < keys; k++) sum[k] += c * x[k];
}

static real dot(const real *x, const real *y, long keys) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long k = 0; k < keys; k++) sum += x[k] * y[k];
    return sum;
}

#if WIDTH == 64 && !defined(DOUBLE) && __has_builtin(__builtin_shufflevector)
// four dots at once, whose sums across a vector are taken together
static void four_dots(const real *x, const real *y, long apart, long keys, real *to) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    for (long k = 0; k < keys; k += 16) {
        vec left = *(const vec *)(x + k);
        a += left * *(const vec *)(y + k);
        b += left * *(const vec *)(y + apart + k);
        c += left * *(const vec *)(y + 2 * apart + k);
        d += left * *(const vec *)(y + 3 * apart + k);
    }
#define EVEN 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define ODD 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define LOW 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
    vec ab = __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
    vec cd = __builtin_shufflevector(c, d, EVEN) + __builtin_shufflevector(c, d, ODD);
    vec sum = __builtin_shufflevector(ab, cd, LOW) + __builtin_shufflevector(ab, cd, HIGH);
    *(four *)to = (__builtin_shufflevector(sum, sum, 0, 1, 2, 3) + __builtin_shufflevector(sum, sum, 4, 5, 6, 7)) +
                  (__builtin_shufflevector(sum, sum, 8, 9, 10, 11) + __builtin_shufflevector(sum, sum, 12, 13, 14, 15));
}
#define FOUR(keys) ((keys) % 16 == 0)
#else
static void four_dots(const real *x, const real *y, long apart, long keys, real *to) {
    for (long j = 0; j < 4; j++) to[j] = dot(x, y + j * apart, keys);
}
#define FOUR(keys) 0
#endif

// rows of x times columns of y
static void between(long rows, long columns, long keys, const real *x, const real *y, real *to, long row, long column) {
    if (columns >= 16 && column == 1) {
        mixer_product(rows, columns, keys, x, keys, 1, y, 1, keys, to, row, 0);
        return;
    }
    for (long i = 0; i < rows; i++) {
        long j = 0;
        if (column == 1 && FOUR(keys))
            for (; j + 4 <= columns; j += 4) four_dots(x + i * keys, y + j * keys, keys, keys, to + i * row + j);
        for (; j < columns; j++) to[i * row + j * column] = dot(x + i * keys, y + j * keys, keys);
    }
}

static segment segment_of(long length, long keys, const real *g, long row, long key, long count, int back) {
    segment s = {.length = length, .keys = keys, .size = 1};
    long levels = 0;
    for (; s.size < length; s.size *= 2) levels++;
    long whole = s.size * keys, halves = back ? levels * (whole / 2) : 0;
    long more = back ? 3 * keys + s.size * s.size / 4 + 1 : 0;
    s.sums = aligned_alloc(64, (sizeof(real) * (3 * whole + count * ((1 + back) * whole + halves) + more) + 63) / 64 * 64);
    s.factors = s.sums + whole;
    s.vectors = s.factors + 2 * whole;
    s.back = s.vectors + count * whole;
    s.saved = s.back + (back ? count * whole : 0);
    s.steps = s.saved + count * halves;
    s.corner = s.steps + 3 * keys;
    to_rows(s.sums, length, keys, g, row, key);
    memset(s.sums + length * keys, 0, sizeof(real) * (s.size - length) * keys);
#pragma omp simd
    for (long i = 0; i < whole; i++) s.factors[i] = m_exp(s.sums[i]);
    return s;
}

// the vectors at their steps
static void begin(const segment *s, long count, const mixer_vector *v) {
    for (long i = 0; i < count; i++) {
        real *x = s->vectors + i * s->size * s->keys;
        to_rows(x, s->length, s->keys, v[i].from, v[i].row, v[i].key);
        memset(x + s->length * s->keys, 0, sizeof(real) * (s->size - s->length) * s->keys);
    }
}

// rows that read after their step, or their cotangents, carried over it
static void enter(const segment *s, long count, const mixer_vector *v, real *arrays) {
    for (long i = 0; i < count; i++) {
        real *x = arrays + i * s->size * s->keys;
        if (v[i].what == ROW_AFTER) {
#pragma omp simd
            for (long j = 0; j < s->length * s->keys; j++) x[j] *= s->factors[j];
        }
    }
}

// the factors of pairs of blocks of m from those of the blocks
static void pair_up(segment *s, long m, const real *factors) {
    real *next = (real *)factors + s->size / m * s->keys;
    for (long b = 0; b < s->size / (2 * m); b++) {
        real *to = s->sums + b * s->keys;
        const real *left = s->sums + 2 * b * s->keys, *right = left + s->keys;
#pragma omp simd
        for (long k = 0; k < s->keys; k++) {
            real sum = right[k] + left[k];
            to[k] = sum;
            next[b * s->keys + k] = m_exp(sum);
        }
    }
}

static long least(long x, long y) { return x < y ? x : y; }

// up the tree; with scores, they are written on the way
static const real *climb(segment *s, long count, const mixer_vector *v, long pairs, const mixer_pair *p) {
    long keys = s->keys, whole = s->size * keys;
    const real *factors = s->factors;
    int back = s->back != s->saved;
    for (long m = 1, level = 0; m < s->size; m *= 2, level++) {
        for (long j = 0; j < pairs; j++)
            for (long at = 0; at + m < s->length; at += 2 * m)
                between(least(m, s->length - at - m), m, keys, s->vectors + p[j].x * whole + (at + m) * keys,
                        s->vectors + p[j].y * whole + at * keys, p[j].to + (at + m) * p[j].row + at * p[j].column, p[j].row,
                        p[j].column);
        for (long i = 0; i < count; i++)
            for (long b = 0; 2 * b * m < s->size; b++) {
                long mine = 2 * b + (v[i].what != COLUMN), other = 2 * b + (v[i].what == COLUMN);
                scale(s->vectors + i * whole + mine * m * keys, factors + other * keys, m, keys,
                      back ? s->saved + ((level * count + i) * s->size / 2 + b * m) * keys : NULL);
            }
        pair_up(s, m, factors);
        factors += s->size / m * keys;
    }
    return factors;
}

void mixer_decay(long length, long keys, const real *g, long row, long key, long count, const mixer_vector *v, long pairs,
                 const mixer_pair *p, real *whole, long whole_key) {
    segment s = segment_of(length, keys, g, row, key, count, 0);
    long each = s.size * keys;
    begin(&s, count, v);
    for (long j = 0; j < pairs; j++) {
        const real *x = s.vectors + p[j].x * each, *y = s.vectors + p[j].y * each;
        for (long t = 0; t < length; t++) {
            real *to = p[j].to + t * p[j].row;
            for (long i = t; i < length; i++) to[i * p[j].column] = 0;
            if (v[p[j].x].what == ROW_AFTER) to[t * p[j].column] = dot(x + t * keys, y + t * keys, keys);
        }
    }
    enter(&s, count, v, s.vectors);
    climb(&s, count, v, pairs, p);
    for (long i = 0; i < count; i++)
        if (v[i].to) from_rows(v[i].to, v[i].to_row, v[i].to_key, s.vectors + i * each, length, keys);
    if (whole) for (long k = 0; k < keys; k++) whole[k * whole_key] = s.sums[k];
    free(s.sums);
}

// The adjoint. Cotangents of what spans a step go down the tree to rows and columns; of a logarithm g_l it is
// Σ_{t ≥ l} (x_t x̄_t − y_t ȳ_t) and what is left of the columns at the end (lowering/decay_region.py). What spans none is
// added to rows and columns afterwards.
void mixer_decay_back(long length, long keys, const real *g, long row, long key, long count, const mixer_vector *v, long pairs,
                      const mixer_pair *p, const real *whole, long whole_key, real *to, long to_row, long to_key) {
    segment s = segment_of(length, keys, g, row, key, count, 1);
    long each = s.size * keys;
    begin(&s, count, v);
    enter(&s, count, v, s.vectors);
    for (long i = 0; i < count; i++) {
        real *ct = s.back + i * each;
        to_rows(ct, length, keys, v[i].ct, v[i].ct_row, v[i].ct_key);
        memset(ct + length * keys, 0, sizeof(real) * (s.size - length) * keys);
        if (v[i].what == COLUMN) memset(ct + (length - 1) * keys, 0, sizeof(real) * keys);
    }
    const real *factors = climb(&s, count, v, 0, p);
    real *left = s.steps, *sum = left + keys, *once = sum + keys;  // of a logarithm: from columns at the end; so far; in all
    memset(left, 0, sizeof(real) * 3 * keys);
    for (long i = 0; i < count; i++)
        for (long t = 0; t < length && v[i].what == COLUMN; t++)
            add_product(left, s.vectors + i * each + t * keys, s.back + i * each + t * keys, keys);
    const real *saved = s.steps;
    for (long m = s.size / 2; m >= 1; m /= 2) {
        factors -= s.size / m * keys;
        saved -= count * (each / 2);
        for (long i = 0; i < count; i++)
            for (long b = 0; 2 * b * m < s.size; b++) {
                long mine = 2 * b + (v[i].what != COLUMN), other = 2 * b + (v[i].what == COLUMN);
                scale(s.back + i * each + mine * m * keys, factors + other * keys, m, keys, NULL);
            }
        for (long j = 0; j < pairs; j++) {
            int early = v[p[j].x].what == ROW_BEFORE;
            if (!p[j].to || (early && m == 1)) continue;
            const real *xs = saved + p[j].x * (each / 2), *ys = saved + p[j].y * (each / 2);
            for (long at = 0; at + m < length; at += 2 * m) {
                long rows = least(m, length - at - m), r = p[j].row, c = p[j].column;
                const real *ct = p[j].to + (at + m) * r + at * c;
                if (early) {  // in the corner no step is spanned
                    to_rows(s.corner, rows, m, ct, r, c);
                    s.corner[m - 1] = 0;
                    ct = s.corner, r = m, c = 1;
                }
                mixer_product(rows, keys, m, ct, r, c, ys + at / 2 * keys, keys, 1, s.back + p[j].x * each + (at + m) * keys,
                              keys, 1);
                mixer_product(m, keys, rows, ct, c, r, xs + at / 2 * keys, keys, 1, s.back + p[j].y * each + at * keys, keys,
                              1);
            }
        }
    }
    real *steps = s.sums;
    enter(&s, count, v, s.back);
    memset(steps, 0, sizeof(real) * each);
    for (long i = 0; i < count; i++) {
        real *x = s.vectors + i * each, *ct = s.back + i * each;
        to_rows(x, length, keys, v[i].from, v[i].row, v[i].key);
        long late = v[i].what == ROW_BEFORE;
        real sign = v[i].what == COLUMN ? -1 : 1;
#pragma omp simd
        for (long j = late * keys; j < length * keys; j++) steps[j - late * keys] += sign * x[j] * ct[j];
    }
    for (long j = 0; j < pairs; j++) {
        if (!p[j].to) continue;
        long late = v[p[j].x].what == ROW_BEFORE;
        const real *x = s.vectors + p[j].x * each, *y = s.vectors + p[j].y * each;
        for (long t = late; t < length; t++) {
            real ct = p[j].to[t * p[j].row + (t - late) * p[j].column];
            add_times(s.back + p[j].x * each + t * keys, ct, y + (t - late) * keys, keys);
            add_times(s.back + p[j].y * each + (t - late) * keys, ct, x + t * keys, keys);
        }
    }
    for (long i = 0; i < count; i++) {
        real *ct = s.back + i * each;
        if (v[i].what == COLUMN && v[i].ct)
            for (long k = 0; k < keys; k++)
                ct[(length - 1) * keys + k] += v[i].ct[(length - 1) * v[i].ct_row + k * v[i].ct_key];
        if (v[i].to) from_rows(v[i].to, v[i].to_row, v[i].to_key, ct, length, keys);
    }
    for (long t = length - 1; t >= 0 && to; t--) {
        const real *factor = s.factors + t * keys;
        real *here = steps + t * keys;
#pragma omp simd
        for (long k = 0; k < keys; k++) {
            sum[k] += here[k];
            here[k] = (factor[k] == 0 ? 0 : sum[k] + left[k]) + (whole ? whole[k * whole_key] : 0);
            once[k] += here[k];
        }
    }
    if (to) from_rows(to, to_row, to_key, to_row ? steps : once, to_row ? length : 1, keys);
    free(s.sums);
}
