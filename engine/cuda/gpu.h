/* What device code is written in: CUDA, or with GPU_EMULATE an emulation of the part of CUDA that the kernels use (emulate.h), so that
 * the same source runs, and is checked, on a machine without a GPU. Private to engine/cuda/.
 *
 * What: launches, conversions and the few instructions that have no name in CUDA C++ (PTX ISA 8: mma, ldmatrix, cp.async, ld.nc).
 * Promises: a wrapper does the same in both builds, up to the rounding inside one mma.
 */
#ifndef ENGINE_CUDA_GPU_H
#define ENGINE_CUDA_GPU_H

extern "C" {
#include "engine/kernels.h"
}

#include <stddef.h>
#include <stdint.h>

#ifdef GPU_EMULATE
#include "engine/cuda/emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* kernel may be in parentheses, so that it can be a template's. */
#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define GPU_DYNAMIC_SHARED(type, name)                                   \
    extern __shared__ __align__(16) unsigned char gpu_dynamic_shared_[]; \
    type *name = (type *)gpu_dynamic_shared_

typedef cudaStream_t gpu_stream;

static __device__ __forceinline__ float gpu_f16_to_f32(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

static __device__ __forceinline__ uint16_t gpu_f32_to_f16(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}

static __device__ __forceinline__ float gpu_bf16_to_f32(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

static __device__ __forceinline__ uint16_t gpu_f32_to_bf16(float f)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}

/* Two values in one register, `lo` in the low half. */
static __device__ __forceinline__ uint32_t gpu_pack_f16(float lo, float hi)
{
    return (uint32_t)gpu_f32_to_f16(hi) << 16 | gpu_f32_to_f16(lo);
}

static __device__ __forceinline__ uint32_t gpu_pack_bf16(float lo, float hi)
{
    return (uint32_t)gpu_f32_to_bf16(hi) << 16 | gpu_f32_to_bf16(lo);
}

/* Two float16 differences. */
static __device__ __forceinline__ uint32_t gpu_sub_f16x2(uint32_t a, uint32_t b)
{
    uint32_t d;

    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* d [16, 8] += a [16, 16] * b [16, 8], by the 32 lanes of a warp. With g = lane / 4 and t = lane % 4:
 * a[0] row g, columns 2t and 2t+1; a[1] row g+8; a[2] row g, columns 2t+8 and 2t+9; a[3] row g+8, the same;
 * b[0] rows 2t and 2t+1 of column g; b[1] rows 2t+8 and 2t+9; d[0], d[1] row g, columns 2t and 2t+1; d[2], d[3] row g+8. */
static __device__ __forceinline__ void gpu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void gpu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 8 x 8 matrices of 16-bit values: lane 8 i + r brings the address (16-byte aligned) of row r of matrix i, and gets in r[i] the two
 * values of row lane / 4, columns 2 (lane % 4) and the next; transposed: of column lane / 4, rows 2 (lane % 4) and the next. */
static __device__ __forceinline__ void gpu_ldmatrix_x4(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared))
                 : "memory");
}

static __device__ __forceinline__ void gpu_ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared))
                 : "memory");
}

static __device__ __forceinline__ void gpu_ldmatrix_x2(uint32_t r[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared))
                 : "memory");
}

/* Copies 16 bytes, or zeros when not valid, behind the caller's back, until gpu_copy_wait. */
static __device__ __forceinline__ void gpu_copy16_async(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

/* Ends a group of copies. */
static __device__ __forceinline__ void gpu_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's groups are under way; __syncthreads shows the others' copies. */
template <int N> static __device__ __forceinline__ void gpu_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 16 bytes that are read once: past the first-level cache. */
static __device__ __forceinline__ uint4 gpu_load16_once(const void *global)
{
    uint4 v;

    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}
#endif

/* Host: before a launch with more than 48 KiB of shared memory. */
template <typename Kernel> static inline void gpu_allow_shared(Kernel kernel, size_t bytes)
{
    if (bytes > 48u << 10)
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

#endif
