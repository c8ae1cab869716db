/* Formats with one scale for 32 values: see matmul_formats.h. */
#include "engine/cuda/matmul_kernels.h"

using q8_0 = mm_block32<8, 128, false, mm_layout_q8_0>;
using q4_0 = mm_block32<4, 8, false, mm_layout_q4_0>;
using q4_1 = mm_block32<4, 0, true, mm_layout_q4_1>;
using q5_0 = mm_block32<5, 16, false, mm_layout_q5_0>;
using q5_1 = mm_block32<5, 0, true, mm_layout_q5_1>;

void mm_launch_q(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call)
{
    switch (type) {
    case ENG_Q4_0: mm_launch<q4_0>(stream, path, call); break;
    case ENG_Q4_1: mm_launch<q4_1>(stream, path, call); break;
    case ENG_Q5_0: mm_launch<q5_0>(stream, path, call); break;
    case ENG_Q5_1: mm_launch<q5_1>(stream, path, call); break;
    default: mm_launch<q8_0>(stream, path, call); break;
    }
}

void mm_embed_q(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out)
{
    switch (w->type) {
    case ENG_Q4_0: mm_launch_embed<q4_0>(stream, w, step, out); break;
    case ENG_Q4_1: mm_launch_embed<q4_1>(stream, w, step, out); break;
    case ENG_Q5_0: mm_launch_embed<q5_0>(stream, w, step, out); break;
    case ENG_Q5_1: mm_launch_embed<q5_1>(stream, w, step, out); break;
    default: mm_launch_embed<q8_0>(stream, w, step, out); break;
    }
}
