/* The two matmul kernels and the one that looks up rows, over any format of matmul_formats.h. Private to engine/cuda/matmul*.cu. */
#ifndef ENGINE_CUDA_MATMUL_KERNELS_H
#define ENGINE_CUDA_MATMUL_KERNELS_H

#include "engine/cuda/matmul_formats.h"

enum {
    MM_STAGES = 3, /* parts under way to shared memory, or in use */
    /* MM_TILES: 4 warps of 2 tiles of rows, 2 of 8 tiles of tokens. */
    MM_BLOCK_ROWS = 8,
    MM_BLOCK_TOKENS = 16,
    MM_WARP_ROWS = 2,
    MM_WARP_TOKENS = 8,
    MM_THREADS = 256
};

/* ---- the end of a sum ---- */

static __device__ __forceinline__ void mm_store(const struct mm_one &one, const float *__restrict__ unscale,
                                                uint32_t row, uint32_t token, float sum)
{
    float *out = one.out + (uint64_t)token * one.rows + row;

    sum = __fmul_rn(sum, unscale[token]);
    if (one.bias != NULL)
        sum = __fadd_rn(sum, one.bias[row]);
    if (one.accumulate)
        sum = __fadd_rn(*out, sum);
    *out = sum;
}

/* The weight that a block belongs to; block becomes its number there. */
static __device__ __forceinline__ const struct mm_one &mm_pick(const struct mm_call &call, uint32_t per_block,
                                                               uint32_t *block)
{
    uint32_t i = 0;

    for (; i + 1 < call.n_ones; i++) {
        uint32_t blocks = (call.one[i].rows + per_block - 1) / per_block;

        if (*block < blocks)
            break;
        *block -= blocks;
    }
    return call.one[i];
}

/* One part of 8 tokens and 64 columns; zeros for tokens past the end. */
static __device__ __forceinline__ void mm_load_b(uint32_t *b, const uint4 *at, bool valid)
{
    uint4 v = make_uint4(0, 0, 0, 0), w = v;

    if (valid) {
        v = __ldg(at);
        w = __ldg(at + MM_WARP);
    }
    b[0] = v.x;
    b[1] = v.y;
    b[2] = v.z;
    b[3] = v.w;
    b[4] = w.x;
    b[5] = w.y;
    b[6] = w.z;
    b[7] = w.w;
}

/* ---- few tokens: memory-bound ----
 *
 * A block is call.splits warps over the same RT tiles of rows and NT tiles of tokens; each warp sums its split of the columns, then the
 * block adds the splits in order. A warp has a ring of its own in shared memory, into which MM_STAGES - 1 units per tile of rows are
 * on their way (4.6 KiB of Q4_K, 4 KiB of F16: nine 16-byte copies a lane). Four blocks of 8 warps fit on an H100's SM for NT = 1.
 * Floor: each weight is read once per 8 NT tokens: rows * cols * bits / 8 bytes; the activations come from the caches. */

template <uint32_t RT, uint32_t NT> static __host__ __device__ constexpr uint32_t mm_split_red_row(void)
{
    return RT * MM_ROWS + 4; /* floats; 4 keep the lanes on banks of their own */
}

template <typename F, uint32_t RT, uint32_t NT> static constexpr uint32_t mm_split_shared(uint32_t splits)
{
    uint32_t ring = splits * MM_STAGES * RT * F::layout.bytes;
    uint32_t reduce = splits * NT * MM_TOKENS * mm_split_red_row<RT, NT>() * (uint32_t)sizeof(float);

    return ring > reduce ? ring : reduce;
}

/* One unit of RT tiles, by one warp. */
template <typename F, uint32_t RT>
static __device__ __forceinline__ void mm_stage_unit(uint8_t *to, const uint8_t *w, uint64_t tile_bytes,
                                                     uint32_t n_tiles, uint32_t lane)
{
#pragma unroll
    for (uint32_t r = 0; r < RT; r++)
#pragma unroll
        for (uint32_t i = 0; i < F::layout.bytes; i += MM_WARP * 16)
            if (i + lane * 16 < F::layout.bytes)
                gpu_copy16_async(to + r * F::layout.bytes + i + lane * 16, w + r * tile_bytes + i + lane * 16,
                                 r < n_tiles);
}

template <typename F, uint32_t RT, uint32_t NT>
static __global__ void __launch_bounds__(MM_SPLITS_MAX *MM_WARP, NT == 1 ? 4 : 1)
    mm_split(struct mm_call call)
{
    constexpr uint32_t UNIT = F::layout.bytes, STEPS = F::layout.k / MM_STEP;
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    uint32_t block = blockIdx.x, warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP, g = lane / 4,
             t = lane % 4;
    const struct mm_one &one = mm_pick(call, RT * MM_ROWS, &block);
    uint32_t row0 = block * RT * MM_ROWS, token0 = blockIdx.y * NT * MM_TOKENS, n = call.x.n - token0;
    uint32_t first = warp * call.units / call.splits, end = (warp + 1) * call.units / call.splits;
    uint32_t row_tiles = (one.rows - row0 + MM_ROWS - 1) / MM_ROWS;
    uint64_t tile_bytes = (uint64_t)call.units * UNIT, b_tile = (uint64_t)call.x.k_pad / 32 * MM_WARP;
    const uint8_t *w = one.w + row0 / MM_ROWS * tile_bytes;
    const uint4 *values = call.x.values + token0 / MM_TOKENS * b_tile + lane;
    const uint2 *sums =
        call.x.sums + (uint64_t)token0 / MM_TOKENS * (call.x.k_pad / MM_GROUP) * MM_WARP + lane;
    uint8_t *ring = shared + warp * MM_STAGES * RT * UNIT;
    float acc[RT][NT][4];

#pragma unroll
    for (uint32_t i = 0; i < RT * NT * 4; i++)
        acc[i / 4 / NT][i / 4 % NT][i % 4] = 0;
    for (uint32_t i = 0; i < MM_STAGES - 1; i++) {
        if (first + i < end)
            mm_stage_unit<F, RT>(ring + i * RT * UNIT, w + (uint64_t)(first + i) * UNIT, tile_bytes,
                                 row_tiles, lane);
        gpu_copy_commit();
    }
    for (uint32_t u = first, slot = 0, ahead = MM_STAGES - 1; u < end; u++) {
        gpu_copy_wait<MM_STAGES - 2>();
        __syncwarp(); /* the others' copies are here, and the slot that is filled next has been read by all */
        if (u + MM_STAGES - 1 < end)
            mm_stage_unit<F, RT>(ring + ahead * RT * UNIT, w + (uint64_t)(u + MM_STAGES - 1) * UNIT,
                                 tile_bytes, row_tiles, lane);
        gpu_copy_commit();
#pragma unroll
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t b[NT][F::parts * 8];
            F f[RT];

#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++)
#pragma unroll
                for (uint32_t part = 0; part < F::parts; part++)
                    mm_load_b(b[nt] + part * 8,
                              values + part * call.x.part + nt * b_tile + (u * STEPS + step) * 2 * MM_WARP,
                              nt * MM_TOKENS + g < n);
#pragma unroll
            for (uint32_t r = 0; r < RT; r++)
                f[r].load(ring + (slot * RT + r) * UNIT, step, lane, u);
#pragma unroll
            for (uint32_t nt = 0; nt < NT; nt++) {
                if (nt * MM_TOKENS >= n)
                    break;
                if (F::has_min && step == 0) {
                    uint2 s = make_uint2(0, 0);

                    if (nt * MM_TOKENS + g < n)
                        s = __ldg(sums +
                                  (nt * (call.x.k_pad / MM_GROUP) + u * F::layout.k / MM_GROUP) * MM_WARP);
#pragma unroll
                    for (uint32_t r = 0; r < RT; r++)
                        f[r].apply_min(s, acc[r][nt]);
                }
#pragma unroll
                for (uint32_t r = 0; r < RT; r++)
                    f[r].apply(b[nt], acc[r][nt]);
            }
        }
        slot = slot + 1 == MM_STAGES ? 0 : slot + 1;
        ahead = ahead + 1 == MM_STAGES ? 0 : ahead + 1;
    }
    gpu_copy_wait<0>();
    __syncthreads(); /* the rings become room for the sums */

    constexpr uint32_t ROW = mm_split_red_row<RT, NT>(), PART = NT * MM_TOKENS * ROW;
    float *parts = (float *)shared;

#pragma unroll
    for (uint32_t r = 0; r < RT; r++)
#pragma unroll
        for (uint32_t nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                parts[warp * PART + (nt * MM_TOKENS + 2 * t + i % 2) * ROW + r * MM_ROWS + g + i / 2 * 8] =
                    acc[r][nt][i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < NT * MM_TOKENS * RT * MM_ROWS; i += blockDim.x) {
        uint32_t token = i / (RT * MM_ROWS), row = i % (RT * MM_ROWS);
        float sum = 0;

        if (token >= n || row0 + row >= one.rows)
            continue;
        for (uint32_t s = 0; s < call.splits; s++)
            sum = __fadd_rn(sum, parts[s * PART + token * ROW + row]);
        mm_store(one, call.x.unscale, row0 + row, token0 + token, sum);
    }
}

/* ---- many tokens ----
 *
 * A block takes 128 rows and 128 tokens, in steps of 64 columns through shared memory. A warp takes 32 rows and 64 tokens; it turns its
 * codes into f16 in registers: each code twice per block, by the two warps that share it, which costs less than a second trip
 * through shared memory. The splits are added where they end. Floor per block and 64 columns: 8 KiB of activations and of F16, 9 KiB of
 * Q4_K; 128 mma of each warp. */

template <typename F> static __host__ __device__ constexpr uint32_t mm_tiles_slots(void)
{
    return F::layout.k == MM_STEP ? MM_STAGES : 2;
}

template <typename F> static constexpr uint32_t mm_tiles_shared(void)
{
    return mm_tiles_slots<F>() * MM_BLOCK_ROWS * F::layout.bytes +
           F::parts * MM_STAGES * MM_BLOCK_TOKENS * 2 * MM_WARP * 16;
}

template <typename F> static __global__ void __launch_bounds__(MM_THREADS, 1) mm_tiles(struct mm_call call)
{
    constexpr uint32_t UNIT = F::layout.bytes, STEPS = F::layout.k / MM_STEP, SLOTS = mm_tiles_slots<F>();
    constexpr uint32_t B_PART = MM_BLOCK_TOKENS * 2 * MM_WARP * 16, B_STEP = F::parts * B_PART;
    GPU_DYNAMIC_SHARED(uint8_t, shared);
    uint8_t *b_ring = shared + SLOTS * MM_BLOCK_ROWS * UNIT;
    uint32_t block = blockIdx.x, warp = threadIdx.x / MM_WARP, lane = threadIdx.x % MM_WARP, g = lane / 4,
             t = lane % 4;
    const struct mm_one &one = mm_pick(call, MM_BLOCK_ROWS * MM_ROWS, &block);
    uint32_t row0 = block * MM_BLOCK_ROWS * MM_ROWS, token0 = blockIdx.y * MM_BLOCK_TOKENS * MM_TOKENS;
    uint32_t n = call.x.n - token0, row_tiles = (one.rows - row0 + MM_ROWS - 1) / MM_ROWS;
    uint32_t my_row_tile = warp % 4 * MM_WARP_ROWS, my_token_tile = warp / 4 * MM_WARP_TOKENS;
    uint64_t tile_bytes = (uint64_t)call.units * UNIT, b_tile = (uint64_t)call.x.k_pad / 32 * MM_WARP;
    uint32_t groups = call.x.k_pad / MM_GROUP;
    const uint8_t *w = one.w + row0 / MM_ROWS * tile_bytes;
    const uint4 *values = call.x.values + token0 / MM_TOKENS * b_tile;
    const uint2 *sums =
        call.x.sums + ((uint64_t)token0 / MM_TOKENS + my_token_tile) * groups * MM_WARP + lane;
    float acc[MM_WARP_ROWS][MM_WARP_TOKENS][4], total[MM_WARP_ROWS][MM_WARP_TOKENS][4];

    auto stage = [&](uint32_t step) { /* the activations of a step, and the unit that begins with it */
                                      if (step % STEPS == 0) {
                                          uint32_t unit = step / STEPS;
                                          uint8_t *to = shared + unit % SLOTS * MM_BLOCK_ROWS * UNIT;

                                          for (uint32_t i = threadIdx.x; i < MM_BLOCK_ROWS * UNIT / 16;
                                               i += MM_THREADS) {
                                              uint32_t tile = i / (UNIT / 16), at = i % (UNIT / 16) * 16;

                                              gpu_copy16_async(to + tile * UNIT + at,
                                                               w + tile * tile_bytes + (uint64_t)unit * UNIT +
                                                                   at,
                                                               tile < row_tiles);
                                          }
                                      }
#pragma unroll
                                      for (uint32_t j = 0; j < B_STEP / 16 / MM_THREADS; j++) {
                                          uint32_t i = j * MM_THREADS + threadIdx.x, part = i / (B_PART / 16),
                                                   tile = i / 64 % MM_BLOCK_TOKENS, at = i % 64;

                                          gpu_copy16_async(b_ring + step % MM_STAGES * B_STEP + i * 16,
                                                           values + part * call.x.part + tile * b_tile +
                                                               step * 64 + at,
                                                           tile * MM_TOKENS + at % 32 / 4 < n);
                                      }
    };

#pragma unroll
    for (int i = 0; i < MM_WARP_ROWS * MM_WARP_TOKENS * 4; i++)
        acc[i / 4 / MM_WARP_TOKENS][i / 4 % MM_WARP_TOKENS][i % 4] =
            total[i / 4 / MM_WARP_TOKENS][i / 4 % MM_WARP_TOKENS][i % 4] = 0;
    for (uint32_t i = 0; i < MM_STAGES - 1; i++) {
        if (i < call.units * STEPS)
            stage(i);
        gpu_copy_commit();
    }
    for (uint32_t split = 0; split < call.splits; split++) {
        uint32_t first = split * call.units / call.splits, end = (split + 1) * call.units / call.splits;

        for (uint32_t i = first * STEPS; i < end * STEPS; i++) {
            uint32_t step = i % STEPS, unit = i / STEPS;
            const uint8_t *a_at = shared + (unit % SLOTS * MM_BLOCK_ROWS + my_row_tile) * UNIT;
            const uint8_t *b_at = b_ring + i % MM_STAGES * B_STEP + (my_token_tile * 64 + lane) * 16;
            F f[MM_WARP_ROWS];

            gpu_copy_wait<MM_STAGES - 2>();
            __syncthreads();
            if (i + MM_STAGES - 1 < call.units * STEPS)
                stage(i + MM_STAGES - 1);
            gpu_copy_commit();
            if (my_row_tile >= row_tiles)
                continue;
#pragma unroll
            for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                f[r].load(a_at + r * UNIT, step, lane, unit);
#pragma unroll
            for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++) {
                uint32_t b[F::parts * 8];

                if ((my_token_tile + nt) * MM_TOKENS >= n)
                    break;
                if (F::has_min && step == 0) {
                    uint2 s = make_uint2(0, 0);

                    if ((my_token_tile + nt) * MM_TOKENS + g < n)
                        s = __ldg(sums + (nt * groups + unit * F::layout.k / MM_GROUP) * MM_WARP);
#pragma unroll
                    for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                        f[r].apply_min(s, acc[r][nt]);
                }
#pragma unroll
                for (uint32_t half = 0; half < F::parts * 2; half++)
                    mm_load4(b + half * 4, b_at + half / 2 * B_PART + nt * 1024 + half % 2 * 512);
#pragma unroll
                for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
                    f[r].apply(b, acc[r][nt]);
            }
        }
#pragma unroll
        for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
#pragma unroll
            for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    total[r][nt][i] = __fadd_rn(total[r][nt][i], acc[r][nt][i]);
                    acc[r][nt][i] = 0;
                }
    }
#pragma unroll
    for (uint32_t r = 0; r < MM_WARP_ROWS; r++)
#pragma unroll
        for (uint32_t nt = 0; nt < MM_WARP_TOKENS; nt++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t row = row0 + (my_row_tile + r) * MM_ROWS + g + i / 2 * 8;
                uint32_t token = (my_token_tile + nt) * MM_TOKENS + 2 * t + i % 2;

                if (row < one.rows && token < n)
                    mm_store(one, call.x.unscale, row, token0 + token, total[r][nt][i]);
            }
}

/* ---- rows ---- */

/* A block per token and 1024 columns. */
template <typename F>
static __global__ void mm_embed(const uint8_t *__restrict__ w, const int32_t *__restrict__ ids, uint32_t cols,
                                uint32_t units, float *__restrict__ out)
{
    uint32_t row = (uint32_t)ids[blockIdx.x];
    const uint8_t *tile = w + (uint64_t)(row / MM_ROWS) * units * F::layout.bytes;

    for (uint32_t k = blockIdx.y * 1024 + threadIdx.x; k < cols && k < blockIdx.y * 1024 + 1024;
         k += blockDim.x)
        out[(uint64_t)blockIdx.x * cols + k] =
            F::value(tile + (uint64_t)(k / F::layout.k) * F::layout.bytes, row % MM_ROWS, k % F::layout.k);
}

/* ---- launches ---- */

template <typename F, uint32_t RT, uint32_t NT>
static void mm_launch_split(gpu_stream stream, const struct mm_call *call)
{
    uint32_t blocks = 0, shared = mm_split_shared<F, RT, NT>(call->splits);
    void (*kernel)(struct mm_call) = mm_split<F, RT, NT>;

    for (uint32_t i = 0; i < call->n_ones; i++)
        blocks += (call->one[i].rows + RT * MM_ROWS - 1) / (RT * MM_ROWS);
    gpu_allow_shared(kernel, shared);
    GPU_LAUNCH(kernel, dim3(blocks, (call->x.n + NT * MM_TOKENS - 1) / (NT * MM_TOKENS)),
               call->splits * MM_WARP, shared, stream, *call);
}

template <typename F> static void mm_launch(gpu_stream stream, enum mm_path path, const struct mm_call *call)
{
    uint32_t blocks = 0,
             across = (call->x.n + MM_BLOCK_TOKENS * MM_TOKENS - 1) / (MM_BLOCK_TOKENS * MM_TOKENS);
    void (*kernel)(struct mm_call) = mm_tiles<F>;

    for (uint32_t i = 0; i < call->n_ones; i++)
        blocks += (call->one[i].rows + MM_BLOCK_ROWS * MM_ROWS - 1) / (MM_BLOCK_ROWS * MM_ROWS);
    if (path ==
        MM_AUTO) /* tiles once they fill most of a device's SMs, or the weights would be read too often */
        path = call->x.n <= MM_TOKENS                                    ? MM_SPLIT_8
               : call->x.n > 64 && (blocks * across >= 96 || across > 4) ? MM_TILES
                                                                         : MM_SPLIT_32;
    if (path == MM_SPLIT_8) {
        mm_launch_split<F, 1, 1>(stream, call);
        return;
    }
    if (path == MM_SPLIT_32) {
        mm_launch_split<F, 2, 4>(stream, call);
        return;
    }
    gpu_allow_shared(kernel, mm_tiles_shared<F>());
    GPU_LAUNCH(kernel, dim3(blocks, across), MM_THREADS, mm_tiles_shared<F>(), stream, *call);
}

template <typename F>
static void mm_launch_embed(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step,
                            float *out)
{
    void (*kernel)(const uint8_t *, const int32_t *, uint32_t, uint32_t, float *) = mm_embed<F>;

    GPU_LAUNCH(kernel, dim3(step->n_tokens, (w->cols + 1023) / 1024), 256, 0, stream, w->data, step->ids,
               w->cols, mm_units(w->type, w->cols), out);
}

#endif
