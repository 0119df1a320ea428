// Fourier transforms.
#include "vectors.h"

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
static void one_transform(int which, long n, const void *from, long step_x, void *to, long step_y) {
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

// Several transforms at once, one number of each in a vector: radix 4, then 2, 3 and 5, results in order (Stockham), for
// lengths without other prime factors. Two real sequences go as one complex one.

typedef struct { vec re, im; } many;

static many times(many x, cplx w) {
    real c = CLIBM(creal)(w), s = CLIBM(cimag)(w);
    return (many){x.re * c - x.im * s, x.re * s + x.im * c};
}

static many *stockham(long n, many *x, many *y, const cplx *roots) {
    long left = n, s = 1;
    for (; left % 4 == 0; left /= 4, s *= 4) {
        long quarter = left / 4;
        for (long j = 0; j < quarter; j++) {
            cplx w1 = roots[j * s], w2 = roots[2 * j * s], w3 = roots[3 * j * s];
            const many *from = x + s * j;
            many *to = y + 4 * s * j;
            for (long q = 0; q < s; q++) {
                many a = from[q], b = from[q + s * quarter], c = from[q + 2 * s * quarter], d = from[q + 3 * s * quarter];
                many e = {a.re + c.re, a.im + c.im}, f = {a.re - c.re, a.im - c.im};
                many g = {b.re + d.re, b.im + d.im}, h = {d.im - b.im, b.re - d.re};  // h = i (b − d)
                to[q] = (many){e.re + g.re, e.im + g.im};
                to[q + s] = times((many){f.re - h.re, f.im - h.im}, w1);
                to[q + 2 * s] = times((many){e.re - g.re, e.im - g.im}, w2);
                to[q + 3 * s] = times((many){f.re + h.re, f.im + h.im}, w3);
            }
        }
        many *z = x; x = y; y = z;
    }
    static const long radices[] = {2, 3, 5};
    for (int which = 0; which < 3; which++)
        for (long r = radices[which]; left % r == 0; left /= r, s *= r) {
            for (long j = 0; j < left / r; j++)
                for (long q = 0; q < s; q++)
                    for (long k = 0; k < r; k++) {
                        many sum = x[q + s * j];
                        for (long i = 1; i < r; i++) {
                            many term = times(x[q + s * (j + i * (left / r))], roots[n / r * (i * k % r)]);
                            sum.re += term.re;
                            sum.im += term.im;
                        }
                        y[q + s * (r * j + k)] = times(sum, roots[j * k * s]);
                    }
            many *z = x; x = y; y = z;
        }
    return x;
}

static int smooth(long n) {
    for (long r = 2; r <= 5; r++) while (n % r == 0) n /= r;
    return n == 1;
}

static const cplx *roots_of(long n) {
    typedef struct circle { long n; struct circle *next; cplx roots[]; } circle;
    static circle *known = NULL;
    circle *found;
#pragma omp critical(mixer_roots)
    {
        for (found = known; found && found->n != n;) found = found->next;
        if (!found) {
            found = malloc(sizeof(circle) + sizeof(cplx) * n);
            *found = (circle){.n = n, .next = known};
            for (long j = 0; j < n; j++) {
                double at = 6.283185307179586476925 * j / n;
                found->roots[j] = MAKE_COMPLEX((real)cos(at), (real)-sin(at));
            }
            known = found;
        }
    }
    return found->roots;
}

// lanes of a vector from and to numbers that lie `apart`; those at `count` and beyond are zero, and are not written
static vec lanes(const real *x, long apart, long count) {
    if (apart == 1 && count >= LANES) return *(const vec *)x;
    vec v = {0};
    for (long i = 0; i < LANES && i < count; i++) v[i] = x[i * apart];
    return v;
}

static void put_lanes(real *y, long apart, long count, vec v) {
    if (apart == 1 && count >= LANES) *(vec *)y = v;
    else for (long i = 0; i < LANES && i < count; i++) y[i * apart] = v[i];
}

// `count` transforms as one_transform does one, the first numbers of which lie apart_x and apart_y from one another
void mixer_transforms(int which, long n, long count, const void *from, long step_x, long apart_x, void *to, long step_y,
                      long apart_y) {
    int from_real = which == 2, to_real = which == 3;
    if (!smooth(n) || count < 4) {
        for (long i = 0; i < count; i++)
            one_transform(which, n, (const char *)from + i * apart_x * (from_real ? sizeof(real) : sizeof(cplx)), step_x,
                            (char *)to + i * apart_y * (to_real ? sizeof(real) : sizeof(cplx)), step_y);
        return;
    }
    const cplx *roots = roots_of(n);
    many *work = aligned_alloc(64, 2 * n * sizeof(many)), *x = work, *y = work + n;
    const real *in = from;
    real *out = to;
    long each = from_real || to_real ? 2 * LANES : LANES;
    for (long first = 0; first < count; first += each) {
        long a = count - first, b = a - LANES;
        if (from_real) {
            const real *at = in + first * apart_x;
            for (long j = 0; j < n; j++) {
                x[j].re = lanes(at + j * step_x, apart_x, a);
                x[j].im = lanes(at + j * step_x + LANES * apart_x, apart_x, b);
            }
        } else if (to_real) {  // the transform of A + i B, conjugated
            const real *at = in + 2 * first * apart_x;
            for (long j = 0; j <= n / 2; j++) {
                const real *here = at + 2 * j * step_x, *there = here + 2 * LANES * apart_x;
                int end = j == 0 || 2 * j == n;
                vec are = lanes(here, 2 * apart_x, a), bre = lanes(there, 2 * apart_x, b);
                vec aim = end ? (vec){0} : lanes(here + 1, 2 * apart_x, a);
                vec bim = end ? (vec){0} : lanes(there + 1, 2 * apart_x, b);
                x[j] = (many){are - bim, -(aim + bre)};
                if (!end) x[n - j] = (many){are + bim, aim - bre};
            }
        } else {
            const real *at = in + 2 * first * apart_x;
            for (long j = 0; j < n; j++) {
                vec im = lanes(at + 2 * j * step_x + 1, 2 * apart_x, a);
                x[j] = (many){lanes(at + 2 * j * step_x, 2 * apart_x, a), which == 1 ? -im : im};
            }
        }
        const many *z = stockham(n, x, y, roots);
        real one = which == 1 || which == 3 ? (real)1 / n : 1;
        if (to_real) {
            real *at = out + first * apart_y;
            for (long j = 0; j < n; j++) {
                put_lanes(at + j * step_y, apart_y, a, z[j].re * one);
                put_lanes(at + j * step_y + LANES * apart_y, apart_y, b, z[j].im * -one);
            }
            continue;
        }
        real *at = out + 2 * first * apart_y;
        for (long j = 0; j < (from_real ? n / 2 + 1 : n); j++) {
            real *here = at + 2 * j * step_y;
            many p = z[j], q = z[j ? n - j : 0];
            if (from_real) {
                real *there = here + 2 * LANES * apart_y, half = (real)0.5;
                put_lanes(here, 2 * apart_y, a, (p.re + q.re) * half);
                put_lanes(here + 1, 2 * apart_y, a, (p.im - q.im) * half);
                put_lanes(there, 2 * apart_y, b, (p.im + q.im) * half);
                put_lanes(there + 1, 2 * apart_y, b, (q.re - p.re) * half);
                continue;
            }
            put_lanes(here, 2 * apart_y, a, p.re * one);
            put_lanes(here + 1, 2 * apart_y, a, (which == 1 ? -p.im : p.im) * one);
        }
    }
    free(work);
}
