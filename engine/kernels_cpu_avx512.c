/* Vector kernels for AVX-512 with VNNI; compiled with those flags, called only where the processor has them. */
#define SIMD_COLS 8

#include "engine/kernels_cpu_simd.h"

const struct eng_cpu_kernels eng_cpu_avx512 = {.name = "avx512", .label = "AVX-512 VNNI", SIMD_KERNELS};
