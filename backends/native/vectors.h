// Vectors of real numbers, as the routines use them.
#include "program.h"
#include <stdlib.h>

#if defined(__AVX512F__)
#define WIDTH 64
#define ROWS 12
#define DOT_ROWS 6
#elif defined(__AVX__)
#define WIDTH 32
#define ROWS 6
#define DOT_ROWS 3
#else
#define WIDTH 16
#define ROWS 4
#define DOT_ROWS 3
#endif
#ifndef __has_builtin
#define __has_builtin(name) 0
#endif
#define LANES ((long)(WIDTH / sizeof(real)))
#define COLUMNS (2 * LANES)
#define DEPTH 256

typedef real vec __attribute__((vector_size(WIDTH), aligned(sizeof(real)), may_alias));
typedef real four __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));
