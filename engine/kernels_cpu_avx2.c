/* Vector kernels for AVX2 with FMA and F16C; compiled with those flags, called only where the processor has them. */
#define SIMD_COLS 4

#include "engine/kernels_cpu_simd.h"

const struct eng_cpu_kernels eng_cpu_avx2 = {.name = "avx2", .label = "AVX2", SIMD_KERNELS};
