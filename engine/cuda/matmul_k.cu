/* Q4_K, Q5_K and Q6_K: see matmul_formats.h. */
#include "engine/cuda/matmul_kernels.h"

using q4_k = mm_k45<4, mm_layout_q4_k>;
using q5_k = mm_k45<5, mm_layout_q5_k>;

void mm_launch_k(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call)
{
    switch (type) {
    case ENG_Q4_K: mm_launch<q4_k>(stream, path, call); break;
    case ENG_Q5_K: mm_launch<q5_k>(stream, path, call); break;
    default: mm_launch<mm_k6>(stream, path, call); break;
    }
}

void mm_embed_k(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out)
{
    switch (w->type) {
    case ENG_Q4_K: mm_launch_embed<q4_k>(stream, w, step, out); break;
    case ENG_Q5_K: mm_launch_embed<q5_k>(stream, w, step, out); break;
    default: mm_launch_embed<mm_k6>(stream, w, step, out); break;
    }
}
