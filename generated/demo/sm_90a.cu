// qwen3 · Q8_0 · sm_90a · imp 0.1.0 · text e9ad5ef871833214
// Generated. One entry for each distinct kernel; the launch plan says in which order and with which buffers they run.
#include "imp/layout/cache_f16.h"
#include "imp/layout/q8_0.h"
#include "imp/stage/advance.h"
#include "imp/stage/attention_decode.h"
#include "imp/stage/attention_prefill.h"
#include "imp/stage/draw.h"
#include "imp/stage/embed.h"
#include "imp/stage/encode_activations.h"
#include "imp/stage/export_logits.h"
#include "imp/stage/fragments.h"
#include "imp/stage/gather_rows.h"
#include "imp/stage/gemm_batch.h"
#include "imp/stage/gemm_batch_wgmma.h"
#include "imp/stage/gemm_held.h"
#include "imp/stage/gemm_wgmma.h"
#include "imp/stage/gemv.h"
#include "imp/stage/greedy.h"
#include "imp/stage/norm_chunk.h"
#include "imp/stage/read.h"
#include "imp/stage/rope_append.h"
#include "imp/stage/sampling.h"
#include "imp/stage/score.h"
#include "imp/stage/sieve.h"
#include "imp/stage/take_row.h"
#include "imp/stage/top_logits.h"
#include "imp/stage/weigh.h"

using imp::Sampling;
using imp::Seen;

// Embed · 0 bytes of weights, 1,296 of other data a launch
// step_r1 embed and 6 more · grid (2, 1, 1), 128 threads
using embed_0_t = imp::EmbedRow<
    imp::EmbedConfig{.threads = 128, .scale = 1.0f},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(embed_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(embed_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) embed_0(
    const std::uint8_t* plane,
    const imp::StepRow* rows,
    const std::int32_t* last,
    float* x) {
  embed_0_t::run(embed_0_t::Args{
      .plane = plane,
      .step = nullptr,
      .rows = rows,
      .last = last,
      .x = x});
}
static_assert(sizeof(embed_0_t::Args) == 5 * 8, "the plan leaves out a field");

// RmsNorm → Linear → Linear → Linear · 139,264 bytes of weights, 4,096 of other data a launch
// step_r1 layers.0.qkv and 41 more · grid (132, 1, 1), 512 threads
using qkv_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 16, .grid = 132, .slots = 2},
    imp::EncodeConfig{.cols = 256, .warps = 16, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreRows<0>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(qkv_0_t::kThreads == 512, "the plan launches another number of threads");
static_assert(qkv_0_t::kSharedBytes == 35408, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) qkv_0(
    const float* x,
    const float* norm,
    float* out_y,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2) {
  qkv_0_t::run(qkv_0_t::Args{
      .x = x,
      .norm = norm,
      .out = {.y = out_y, .bias = {nullptr}},
      .plane = {plane_0, plane_1, plane_2}});
}
static_assert(sizeof(qkv_0_t::Args) == 7 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope → Attention · 0 bytes of weights, 3,072 of other data a launch
// step_r1 layers.0.attention and 41 more · grid (66, 2, 1), 256 threads
using attention_0_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 66, .warps = 8, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f},
    imp::CacheF16<64>,
    8>;
static_assert(attention_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(attention_0_t::kSharedBytes == 136592, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) attention_0(
    const float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const imp::StepRow* rows,
    const std::int32_t* positions,
    const std::int32_t* table,
    float* partial,
    std::uint32_t* arrived,
    float* out) {
  attention_0_t::run(attention_0_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .rows = rows,
      .positions = positions,
      .table = table,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = nullptr,
      .sinks = nullptr,
      .halfs = nullptr,
      .factors = nullptr});
}
static_assert(sizeof(attention_0_t::Args) == 15 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 3,072 of other data a launch
// step_r1 layers.0.attn_output and 41 more · grid (132, 1, 1), 512 threads
using project_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 16, .grid = 132, .slots = 2},
    imp::EncodeConfig{.cols = 256, .warps = 16, .q8 = true, .halfs = false, .dense = false, .norm = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::AddRows<0, 1.0f>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(project_0_t::kThreads == 512, "the plan launches another number of threads");
static_assert(project_0_t::kSharedBytes == 35392, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) project_0(
    const float* x,
    float* out_y,
    const std::uint8_t* plane_0) {
  project_0_t::run(project_0_t::Args{
      .x = x,
      .norm = nullptr,
      .out = {.y = out_y, .bias = {nullptr}},
      .plane = {plane_0}});
}
static_assert(sizeof(project_0_t::Args) == 5 * 8, "the plan leaves out a field");

// RmsNorm → Linear → Linear → Gated · 417,792 bytes of weights, 5,120 of other data a launch
// step_r1 layers.0.gate_up and 41 more · grid (132, 1, 1), 512 threads
using gate_up_0_t = imp::GatedGemv<
    imp::GemvConfig{.warps = 16, .grid = 132, .slots = 2},
    imp::EncodeConfig{.cols = 256, .warps = 16, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreRows<0>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Silu>;
static_assert(gate_up_0_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gate_up_0_t::kSharedBytes == 35408, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gate_up_0(
    const float* x,
    const float* norm,
    float* out_y,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1) {
  gate_up_0_t::run(gate_up_0_t::Args{
      .x = x,
      .norm = norm,
      .out = {.y = out_y, .bias = {nullptr}},
      .plane = {plane_0, plane_1}});
}
static_assert(sizeof(gate_up_0_t::Args) == 6 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 5,120 of other data a launch
// step_r1 layers.0.down and 41 more · grid (132, 1, 1), 512 threads
using project_1_t = imp::Gemv<
    imp::GemvConfig{.warps = 16, .grid = 132, .slots = 2},
    imp::EncodeConfig{.cols = 768, .warps = 16, .q8 = true, .halfs = false, .dense = false, .norm = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::AddRows<0, 1.0f>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(project_1_t::kThreads == 512, "the plan launches another number of threads");
static_assert(project_1_t::kSharedBytes == 105664, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) project_1(
    const float* x,
    float* out_y,
    const std::uint8_t* plane_0) {
  project_1_t::run(project_1_t::Args{
      .x = x,
      .norm = nullptr,
      .out = {.y = out_y, .bias = {nullptr}},
      .plane = {plane_0}});
}
static_assert(sizeof(project_1_t::Args) == 5 * 8, "the plan leaves out a field");

// RmsNorm → Linear · 557,056 bytes of weights, 10,240 of other data a launch
// step_r1 head and 7 more · grid (132, 1, 1), 512 threads
using head_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 16, .grid = 132, .slots = 2},
    imp::EncodeConfig{.cols = 256, .warps = 16, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreLogits<imp::LogitsConfig{.warps = 16, .biased = 0, .scale = 1.0f, .cap = 0.0f}>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(head_0_t::kThreads == 512, "the plan launches another number of threads");
static_assert(head_0_t::kSharedBytes == 35536, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) head_0(
    const float* x,
    const float* norm,
    float* out_logits,
    float* out_best_value,
    std::uint32_t* out_best,
    const std::uint8_t* plane_0) {
  head_0_t::run(head_0_t::Args{
      .x = x,
      .norm = norm,
      .out = {.logits = out_logits, .best_value = out_best_value, .best = out_best, .bias = {nullptr}},
      .plane = {plane_0}});
}
static_assert(sizeof(head_0_t::Args) == 7 * 8, "the plan leaves out a field");

// Sample · 0 bytes of weights, 1,056 of other data a launch
// step_r1 greedy · grid (1, 1, 1), 256 threads
using greedy_0_t = imp::Greedy<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(greedy_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(greedy_0_t::kSharedBytes == 64, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) greedy_0(
    const float* best_value,
    const std::uint32_t* best,
    const imp::StepHeader* delivery_step,
    std::int32_t* delivery_tokens,
    std::int32_t* delivery_positions,
    std::uint32_t* delivery_count,
    std::uint64_t* delivery_ring,
    const imp::StepSequence* delivery_sequences,
    const std::uint32_t* delivery_first) {
  greedy_0_t::run(greedy_0_t::Args{
      .best_value = best_value,
      .best = best,
      .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}});
}
static_assert(sizeof(greedy_0_t::Args) == 9 * 8, "the plan leaves out a field");

// Sample · 0 bytes of weights, 8,192 of other data a launch
// step_draw_r1 draw and 1 more · grid (132, 1, 1), 256 threads
using draw_0_t = imp::Draw<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = false}>;
static_assert(draw_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(draw_0_t::kSharedBytes == 36016, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) draw_0(
    const Sampling* sampling,
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    std::uint64_t* work_histogram,
    float* work_winner_value,
    std::uint32_t* work_winner,
    float* work_list_scores,
    std::uint32_t* work_list_ids,
    std::uint32_t* work_arrived,
    std::int32_t* memory_history,
    Seen* memory_seen,
    const imp::StepHeader* delivery_step,
    std::int32_t* delivery_tokens,
    std::int32_t* delivery_positions,
    std::uint32_t* delivery_count,
    std::uint64_t* delivery_ring,
    const imp::StepSequence* delivery_sequences,
    const std::uint32_t* delivery_first) {
  draw_0_t::run(draw_0_t::Args{
      .sampling = sampling,
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .work = {.histogram = work_histogram, .winner_value = work_winner_value, .winner = work_winner, .list_scores = work_list_scores, .list_ids = work_list_ids, .arrived = work_arrived},
      .memory = {.history = memory_history, .seen = memory_seen},
      .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}});
}
static_assert(sizeof(draw_0_t::Args) == 20 * 8, "the plan leaves out a field");

// Score · 0 bytes of weights, 16,384 of other data a launch
// step_score_r1 score and 2 more · grid (132, 1, 1), 256 threads
using score_0_t = imp::Score<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(score_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(score_0_t::kSharedBytes == 80, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) score_0(
    const float* adjust_logits,
    const imp::StepHeader* adjust_step,
    const Sampling* adjust_sampling,
    const std::int32_t* adjust_positions,
    const std::int32_t* adjust_history,
    const std::int32_t* adjust_breakers,
    const Seen* adjust_seen,
    const std::uint32_t* adjust_mask,
    const float* adjust_bias,
    std::uint32_t* adjust_longest,
    const imp::StepSequence* adjust_sequences,
    float* scores,
    float* best_value,
    std::uint32_t* best) {
  score_0_t::run(score_0_t::Args{
      .adjust = {.logits = adjust_logits, .step = adjust_step, .sampling = adjust_sampling, .positions = adjust_positions, .history = adjust_history, .breakers = adjust_breakers, .seen = adjust_seen, .mask = adjust_mask, .bias = adjust_bias, .longest = adjust_longest, .sequences = adjust_sequences},
      .scores = scores,
      .best_value = best_value,
      .best = best,
      .logit_value = nullptr,
      .logit_best = nullptr});
}
static_assert(sizeof(score_0_t::Args) == 16 * 8, "the plan leaves out a field");

// Weigh · 0 bytes of weights, 8,192 of other data a launch
// step_weigh_r1 weigh and 2 more · grid (132, 1, 1), 256 threads
using weigh_0_t = imp::Weigh<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(weigh_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(weigh_0_t::kSharedBytes == 16448, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) weigh_0(
    const imp::StepHeader* step,
    const Sampling* sampling,
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    std::uint64_t* histogram,
    const imp::StepSequence* sequences) {
  weigh_0_t::run(weigh_0_t::Args{
      .step = step,
      .sampling = sampling,
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .histogram = histogram,
      .sequences = sequences});
}
static_assert(sizeof(weigh_0_t::Args) == 8 * 8, "the plan leaves out a field");

// Sample · 0 bytes of weights, 8,192 of other data a launch
// step_weigh_r1 draw and 2 more · grid (132, 1, 1), 256 threads
using draw_weighed_0_t = imp::Draw<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(draw_weighed_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(draw_weighed_0_t::kSharedBytes == 36016, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) draw_weighed_0(
    const Sampling* sampling,
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    std::uint64_t* work_histogram,
    float* work_winner_value,
    std::uint32_t* work_winner,
    float* work_list_scores,
    std::uint32_t* work_list_ids,
    std::uint32_t* work_arrived,
    std::int32_t* memory_history,
    Seen* memory_seen,
    const imp::StepHeader* delivery_step,
    std::int32_t* delivery_tokens,
    std::int32_t* delivery_positions,
    std::uint32_t* delivery_count,
    std::uint64_t* delivery_ring,
    const imp::StepSequence* delivery_sequences,
    const std::uint32_t* delivery_first) {
  draw_weighed_0_t::run(draw_weighed_0_t::Args{
      .sampling = sampling,
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .work = {.histogram = work_histogram, .winner_value = work_winner_value, .winner = work_winner, .list_scores = work_list_scores, .list_ids = work_list_ids, .arrived = work_arrived},
      .memory = {.history = memory_history, .seen = memory_seen},
      .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}});
}
static_assert(sizeof(draw_weighed_0_t::Args) == 20 * 8, "the plan leaves out a field");

// 1 operations · 0 bytes of weights, 16,384 of other data a launch
// step_sieve_r1 sieve and 1 more · grid (40, 1, 1), 256 threads
using sieve_0_t = imp::Sieve<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 40, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(sieve_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(sieve_0_t::kSharedBytes == 16816, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 2) sieve_0(
    const __grid_constant__ sieve_0_t::Args args) {
  sieve_0_t::run(args);
}
// The plan's pointers lie where these fields do.
static_assert(
    requires(
        const float* source_logits,
        const imp::StepHeader* source_step,
        const Sampling* source_sampling,
        const std::int32_t* source_positions,
        const std::int32_t* source_history,
        const std::int32_t* source_breakers,
        const Seen* source_seen,
        const std::uint32_t* source_mask,
        const float* source_bias,
        std::uint32_t* source_longest,
        const imp::StepSequence* source_sequences,
        float* surprise_limits,
        float* scores,
        std::uint64_t* shares,
        std::uint64_t* histograms,
        std::uint32_t* arrived,
        float* surprises,
        std::int32_t* memory_history,
        Seen* memory_seen,
        const imp::StepHeader* delivery_step,
        std::int32_t* delivery_tokens,
        std::int32_t* delivery_positions,
        std::uint32_t* delivery_count,
        std::uint64_t* delivery_ring,
        const imp::StepSequence* delivery_sequences,
        const std::uint32_t* delivery_first) {
      sieve_0_t::Args{
          .source = {.logits = source_logits, .step = source_step, .sampling = source_sampling, .positions = source_positions, .history = source_history, .breakers = source_breakers, .seen = source_seen, .mask = source_mask, .bias = source_bias, .longest = source_longest, .sequences = source_sequences},
          .surprise_limits = surprise_limits,
          .scores = scores,
          .shares = shares,
          .histograms = histograms,
          .arrived = arrived,
          .surprises = surprises,
          .memory = {.history = memory_history, .seen = memory_seen},
          .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}};
    });
static_assert(sizeof(sieve_0_t::Args) == 26 * 8, "the plan leaves out a field");

// Embed · 0 bytes of weights, 82,944 of other data a launch
// forward_r64 embed and 7 more · grid (64, 1, 1), 128 threads
using embed_1_t = imp::EmbedRows<
    imp::EmbedConfig{.threads = 128, .scale = 1.0f},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(embed_1_t::kThreads == 128, "the plan launches another number of threads");
static_assert(embed_1_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) embed_1(
    const std::uint8_t* plane,
    const imp::StepHeader* step,
    const imp::StepRow* rows,
    const std::int32_t* last,
    float* x) {
  embed_1_t::run(embed_1_t::Args{
      .plane = plane,
      .step = step,
      .rows = rows,
      .last = last,
      .x = x});
}
static_assert(sizeof(embed_1_t::Args) == 5 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 98,304 of other data a launch
// forward_r64 layers.0.attn_norm.encode and 12 more · grid (64, 1, 1), 256 threads
using encode_0_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 64, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_0_t::kSharedBytes == 64, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_0(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_0_t::run(encode_0_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_0_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 163,840 of other data a launch
// forward_r64 layers.0.q_k_v and 5 more · grid (8, 1, 1), 256 threads
using gemm_0_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 64, .block_tokens = 64, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_0_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_0(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step) {
  gemm_0_t::run(gemm_0_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_0_t::Args) == 12 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope · 0 bytes of weights, 262,144 of other data a launch
// forward_r64 layers.0.attention.append and 5 more · grid (64, 1, 1), 256 threads
using append_0_t = imp::RopeAppend<
    imp::RopeAppendConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 64, .values = 6, .latent = 0, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f},
    imp::CacheF16<64>>;
static_assert(append_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(append_0_t::kSharedBytes == 256, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) append_0(
    float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    const imp::StepHeader* step,
    const imp::StepRow* rows) {
  append_0_t::run(append_0_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .table = table,
      .positions = positions,
      .step = step,
      .rows = rows});
}
static_assert(sizeof(append_0_t::Args) == 9 * 8, "the plan leaves out a field");

// Attention · 0 bytes of weights, 131,072 of other data a launch
// forward_r64 layers.0.attention and 5 more · grid (8, 1, 1), 128 threads
using attend_0_t = imp::AttentionPrefill<
    imp::AttentionPrefillConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 64, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .window = 0, .soft_cap = 0.0f, .groups = 4, .ctas = 8, .spans = 2, .wgmma = true, .folds = true},
    imp::CacheF16<64>>;
static_assert(attend_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attend_0_t::kSharedBytes == 51216, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 2) attend_0(
    const float* q,
    const std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    const imp::StepSequence* sequences) {
  attend_0_t::run(attend_0_t::Args{
      .q = q,
      .cache = cache,
      .table = table,
      .positions = positions,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sequences = sequences,
      .sinks = nullptr});
}
static_assert(sizeof(attend_0_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 98,304 of other data a launch
// forward_r64 layers.0.attention.encode and 5 more · grid (64, 1, 1), 256 threads
using encode_1_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 64, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_1_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_1(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_1_t::run(encode_1_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_1_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 98,304 of other data a launch
// forward_r64 layers.0.attn_output and 5 more · grid (4, 1, 1), 256 threads
using gemm_1_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 64, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_1_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_1(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_1_t::run(gemm_1_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_1_t::Args) == 10 * 8, "the plan leaves out a field");

// Linear → Linear → Gated · 417,792 bytes of weights, 229,376 of other data a launch
// forward_r64 layers.0.gated.products and 5 more · grid (24, 1, 1), 256 threads
using gemm_2_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 64, .block_tokens = 64, .stride = 768, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = true, .experts = 0, .used = 0},
    imp::Silu,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_2_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_2_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_2(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step) {
  gemm_2_t::run(gemm_2_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_2_t::Args) == 11 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 294,912 of other data a launch
// forward_r64 layers.0.gated.encode and 5 more · grid (64, 1, 1), 256 threads
using encode_2_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 64, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_2_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_2_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_2(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_2_t::run(encode_2_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_2_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 163,840 of other data a launch
// forward_r64 layers.0.down and 5 more · grid (4, 1, 1), 256 threads
using gemm_3_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 768, .tokens = 64, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_3_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_3_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_3(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_3_t::run(gemm_3_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_3_t::Args) == 10 * 8, "the plan leaves out a field");

// Advance · 0 bytes of weights, 8 of other data a launch
// forward_r64 advance and 7 more · grid (1, 1, 1), 32 threads
using advance_0_t = imp::Advance<
    32>;
static_assert(advance_0_t::kThreads == 32, "the plan launches another number of threads");
static_assert(advance_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(32, 1) advance_0(
    std::int32_t* positions,
    const imp::StepHeader* step,
    const imp::StepSequence* sequences) {
  advance_0_t::run(advance_0_t::Args{
      .positions = positions,
      .step = step,
      .sequences = sequences});
}
static_assert(sizeof(advance_0_t::Args) == 3 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 557,056 of other data a launch
// logits_r64 logits · grid (32, 1, 1), 256 threads
using gemm_4_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 64, .block_tokens = 64, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_4_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_4_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_4(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_4_t::run(gemm_4_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_4_t::Args) == 10 * 8, "the plan leaves out a field");

// RmsNorm · 0 bytes of weights, 131,072 of other data a launch
// hidden_r64 hidden and 1 more · grid (64, 1, 1), 256 threads
using norm_chunk_0_t = imp::NormChunk<
    imp::NormChunkConfig{.cols = 256, .threads = 256, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false}>;
static_assert(norm_chunk_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(norm_chunk_0_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) norm_chunk_0(
    const float* x,
    const float* norm,
    const imp::StepHeader* step,
    float* y) {
  norm_chunk_0_t::run(norm_chunk_0_t::Args{
      .x = x,
      .norm = norm,
      .step = step,
      .y = y});
}
static_assert(sizeof(norm_chunk_0_t::Args) == 4 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attn_norm.encode and 12 more · grid (128, 1, 1), 256 threads
using encode_3_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 128, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_3_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_3_t::kSharedBytes == 64, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_3(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_3_t::run(encode_3_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_3_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 327,680 of other data a launch
// forward_r128 layers.0.q_k_v and 5 more · grid (16, 1, 1), 256 threads
using gemm_5_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 128, .block_tokens = 64, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_5_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_5_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_5(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step) {
  gemm_5_t::run(gemm_5_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_5_t::Args) == 12 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope · 0 bytes of weights, 524,288 of other data a launch
// forward_r128 layers.0.attention.append and 5 more · grid (128, 1, 1), 256 threads
using append_1_t = imp::RopeAppend<
    imp::RopeAppendConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 128, .values = 6, .latent = 0, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f},
    imp::CacheF16<64>>;
static_assert(append_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(append_1_t::kSharedBytes == 256, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) append_1(
    float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    const imp::StepHeader* step,
    const imp::StepRow* rows) {
  append_1_t::run(append_1_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .table = table,
      .positions = positions,
      .step = step,
      .rows = rows});
}
static_assert(sizeof(append_1_t::Args) == 9 * 8, "the plan leaves out a field");

// Attention · 0 bytes of weights, 262,144 of other data a launch
// forward_r128 layers.0.attention and 5 more · grid (16, 1, 1), 128 threads
using attend_1_t = imp::AttentionPrefill<
    imp::AttentionPrefillConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 128, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .window = 0, .soft_cap = 0.0f, .groups = 4, .ctas = 16, .spans = 2, .wgmma = true, .folds = true},
    imp::CacheF16<64>>;
static_assert(attend_1_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attend_1_t::kSharedBytes == 51216, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 2) attend_1(
    const float* q,
    const std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    const imp::StepSequence* sequences) {
  attend_1_t::run(attend_1_t::Args{
      .q = q,
      .cache = cache,
      .table = table,
      .positions = positions,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sequences = sequences,
      .sinks = nullptr});
}
static_assert(sizeof(attend_1_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attention.encode and 5 more · grid (128, 1, 1), 256 threads
using encode_4_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 128, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_4_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_4_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_4(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_4_t::run(encode_4_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_4_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attn_output and 5 more · grid (8, 1, 1), 256 threads
using gemm_6_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 128, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_6_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_6_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_6(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_6_t::run(gemm_6_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_6_t::Args) == 10 * 8, "the plan leaves out a field");

// Linear → Linear → Gated · 417,792 bytes of weights, 458,752 of other data a launch
// forward_r128 layers.0.gated.products and 5 more · grid (48, 1, 1), 256 threads
using gemm_7_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 128, .block_tokens = 64, .stride = 768, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = true, .experts = 0, .used = 0},
    imp::Silu,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_7_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_7_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_7(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step) {
  gemm_7_t::run(gemm_7_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_7_t::Args) == 11 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 589,824 of other data a launch
// forward_r128 layers.0.gated.encode and 5 more · grid (128, 1, 1), 256 threads
using encode_5_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 128, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_5_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_5_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_5(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_5_t::run(encode_5_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_5_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 327,680 of other data a launch
// forward_r128 layers.0.down and 5 more · grid (8, 1, 1), 256 threads
using gemm_8_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 768, .tokens = 128, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_8_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_8_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_8(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_8_t::run(gemm_8_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_8_t::Args) == 10 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 1,114,112 of other data a launch
// logits_r128 logits · grid (64, 1, 1), 256 threads
using gemm_9_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 128, .block_tokens = 64, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_9_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_9_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_9(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_9_t::run(gemm_9_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_9_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 786,432 of other data a launch
// forward_r512 layers.0.attn_norm.encode and 11 more · grid (512, 1, 1), 256 threads
using encode_6_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 512, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_6_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_6_t::kSharedBytes == 64, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_6(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_6_t::run(encode_6_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_6_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 1,310,720 of other data a launch
// forward_r512 layers.0.q_k_v and 5 more · grid (64, 1, 1), 256 threads
using gemm_10_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 512, .block_tokens = 64, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_10_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_10_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_10(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step) {
  gemm_10_t::run(gemm_10_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_10_t::Args) == 12 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope · 0 bytes of weights, 2,097,152 of other data a launch
// forward_r512 layers.0.attention.append and 5 more · grid (512, 1, 1), 256 threads
using append_2_t = imp::RopeAppend<
    imp::RopeAppendConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 512, .values = 6, .latent = 0, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f},
    imp::CacheF16<64>>;
static_assert(append_2_t::kThreads == 256, "the plan launches another number of threads");
static_assert(append_2_t::kSharedBytes == 256, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) append_2(
    float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    const imp::StepHeader* step,
    const imp::StepRow* rows) {
  append_2_t::run(append_2_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .table = table,
      .positions = positions,
      .step = step,
      .rows = rows});
}
static_assert(sizeof(append_2_t::Args) == 9 * 8, "the plan leaves out a field");

// Attention · 0 bytes of weights, 1,048,576 of other data a launch
// forward_r512 layers.0.attention and 5 more · grid (64, 1, 1), 128 threads
using attend_2_t = imp::AttentionPrefill<
    imp::AttentionPrefillConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 512, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .window = 0, .soft_cap = 0.0f, .groups = 4, .ctas = 64, .spans = 2, .wgmma = true, .folds = true},
    imp::CacheF16<64>>;
static_assert(attend_2_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attend_2_t::kSharedBytes == 51216, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 2) attend_2(
    const float* q,
    const std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    const imp::StepSequence* sequences) {
  attend_2_t::run(attend_2_t::Args{
      .q = q,
      .cache = cache,
      .table = table,
      .positions = positions,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sequences = sequences,
      .sinks = nullptr});
}
static_assert(sizeof(attend_2_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 786,432 of other data a launch
// forward_r512 layers.0.attention.encode and 5 more · grid (512, 1, 1), 256 threads
using encode_7_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 512, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_7_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_7_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_7(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_7_t::run(encode_7_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_7_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 786,432 of other data a launch
// forward_r512 layers.0.attn_output and 5 more · grid (32, 1, 1), 256 threads
using gemm_11_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 512, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_11_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_11_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_11(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_11_t::run(gemm_11_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_11_t::Args) == 10 * 8, "the plan leaves out a field");

// Linear → Linear → Gated · 417,792 bytes of weights, 1,835,008 of other data a launch
// forward_r512 layers.0.gated.products and 5 more · grid (96, 1, 1), 384 threads
using gemm_12_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 512, .block_tokens = 64, .stride = 768, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .paired = true, .experts = 0, .used = 0},
    imp::Silu,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_12_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_12_t::kSharedBytes == 66112, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_12(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step) {
  gemm_12_t::run(gemm_12_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_12_t::Args) == 11 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 2,359,296 of other data a launch
// forward_r512 layers.0.gated.encode and 5 more · grid (512, 1, 1), 256 threads
using encode_8_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 512, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_8_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_8_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_8(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_8_t::run(encode_8_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_8_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 1,310,720 of other data a launch
// forward_r512 layers.0.down and 5 more · grid (32, 1, 1), 256 threads
using gemm_13_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 768, .tokens = 512, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_13_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_13_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_13(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_13_t::run(gemm_13_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_13_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 3,145,728 of other data a launch
// forward_r2048 layers.0.attn_norm.encode and 11 more · grid (2048, 1, 1), 256 threads
using encode_9_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 2048, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_9_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_9_t::kSharedBytes == 64, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_9(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_9_t::run(encode_9_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_9_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 5,242,880 of other data a launch
// forward_r2048 layers.0.q_k_v and 5 more · grid (128, 1, 1), 384 threads
using gemm_14_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 2048, .block_tokens = 64, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_14_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_14_t::kSharedBytes == 66112, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_14(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step) {
  gemm_14_t::run(gemm_14_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_14_t::Args) == 12 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope · 0 bytes of weights, 8,388,608 of other data a launch
// forward_r2048 layers.0.attention.append and 5 more · grid (2048, 1, 1), 256 threads
using append_3_t = imp::RopeAppend<
    imp::RopeAppendConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 2048, .values = 6, .latent = 0, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f},
    imp::CacheF16<64>>;
static_assert(append_3_t::kThreads == 256, "the plan launches another number of threads");
static_assert(append_3_t::kSharedBytes == 256, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) append_3(
    float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    const imp::StepHeader* step,
    const imp::StepRow* rows) {
  append_3_t::run(append_3_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .table = table,
      .positions = positions,
      .step = step,
      .rows = rows});
}
static_assert(sizeof(append_3_t::Args) == 9 * 8, "the plan leaves out a field");

// Attention · 0 bytes of weights, 4,194,304 of other data a launch
// forward_r2048 layers.0.attention and 5 more · grid (256, 1, 1), 128 threads
using attend_3_t = imp::AttentionPrefill<
    imp::AttentionPrefillConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 2048, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .window = 0, .soft_cap = 0.0f, .groups = 4, .ctas = 256, .spans = 2, .wgmma = true, .folds = true},
    imp::CacheF16<64>>;
static_assert(attend_3_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attend_3_t::kSharedBytes == 51216, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 2) attend_3(
    const float* q,
    const std::uint8_t* cache,
    const std::int32_t* table,
    const std::int32_t* positions,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    const imp::StepSequence* sequences) {
  attend_3_t::run(attend_3_t::Args{
      .q = q,
      .cache = cache,
      .table = table,
      .positions = positions,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sequences = sequences,
      .sinks = nullptr});
}
static_assert(sizeof(attend_3_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 3,145,728 of other data a launch
// forward_r2048 layers.0.attention.encode and 5 more · grid (2048, 1, 1), 256 threads
using encode_10_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 2048, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_10_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_10_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_10(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_10_t::run(encode_10_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_10_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 3,145,728 of other data a launch
// forward_r2048 layers.0.attn_output and 5 more · grid (128, 1, 1), 256 threads
using gemm_15_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 2048, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_15_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_15_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_15(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_15_t::run(gemm_15_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_15_t::Args) == 10 * 8, "the plan leaves out a field");

// Linear → Linear → Gated · 417,792 bytes of weights, 7,340,032 of other data a launch
// forward_r2048 layers.0.gated.products and 5 more · grid (96, 1, 1), 384 threads
using gemm_16_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 256, .tokens = 2048, .block_tokens = 256, .stride = 768, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .paired = true, .experts = 0, .used = 0},
    imp::Silu,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_16_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_16_t::kSharedBytes == 197040, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_16(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step) {
  gemm_16_t::run(gemm_16_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_16_t::Args) == 11 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 9,437,184 of other data a launch
// forward_r2048 layers.0.gated.encode and 5 more · grid (2048, 1, 1), 256 threads
using encode_11_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 2048, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 8, .used = 0, .each = false}>;
static_assert(encode_11_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_11_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_11(
    const float* x,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_11_t::run(encode_11_t::Args{
      .x = x,
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_11_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 5,242,880 of other data a launch
// forward_r2048 layers.0.down and 5 more · grid (128, 1, 1), 256 threads
using gemm_17_t = imp::GemmWgmma<
    imp::WgmmaConfig{.cols = 768, .tokens = 2048, .block_tokens = 64, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .halves = false, .rows = 64, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_17_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_17_t::kSharedBytes == 65856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_17(
    const std::uint8_t* panels,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_17_t::run(gemm_17_t::Args{
      .panels = panels,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .tiles = nullptr,
      .pairs = nullptr,
      .halves = nullptr,
      .arrived = nullptr,
      .y = y,
      .step = step});
}
static_assert(sizeof(gemm_17_t::Args) == 10 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 12,288 of other data a launch
// batch_r8 layers.0.attn_norm.encode and 13 more · grid (8, 1, 1), 32 threads
using encode_12_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 8, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 1, .used = 0, .each = false}>;
static_assert(encode_12_t::kThreads == 32, "the plan launches another number of threads");
static_assert(encode_12_t::kSharedBytes == 8, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(32, 1) encode_12(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_12_t::run(encode_12_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_12_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 118,784 of other data a launch
// batch_r8 layers.0.q_k_v and 5 more · grid (6, 1, 1), 512 threads
using gemm_18_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 8, .stretches = 2, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 2, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_18_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_18_t::kSharedBytes == 17472, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_18(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_18_t::run(gemm_18_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_18_t::Args) == 10 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope → Attention → Encode · 0 bytes of weights, 28,672 of other data a launch
// batch_r8 layers.0.attention and 5 more · grid (4, 16, 1), 128 threads
using attention_1_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 4, .warps = 4, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f, .least = 4},
    imp::CacheF16<64>,
    4,
    8,
    512,
    imp::FragmentOrder>;
static_assert(attention_1_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attention_1_t::kSharedBytes == 35792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) attention_1(
    const float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const imp::StepRow* rows,
    const std::int32_t* positions,
    const std::int32_t* table,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    std::uint8_t* halfs,
    float* factors) {
  attention_1_t::run(attention_1_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .rows = rows,
      .positions = positions,
      .table = table,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sinks = nullptr,
      .halfs = halfs,
      .factors = factors});
}
static_assert(sizeof(attention_1_t::Args) == 15 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 45,056 of other data a launch
// batch_r8 layers.0.attn_output and 5 more · grid (2, 1, 1), 512 threads
using gemm_19_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 8, .stretches = 2, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 2, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_19_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_19_t::kSharedBytes == 17472, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_19(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_19_t::run(gemm_19_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_19_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Linear · 417,792 bytes of weights, 249,856 of other data a launch
// batch_r8 layers.0.gate_up and 5 more · grid (12, 1, 1), 512 threads
using gemm_20_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 8, .stretches = 2, .stride = 1536, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 2, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_20_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_20_t::kSharedBytes == 17472, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_20(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_20_t::run(gemm_20_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_20_t::Args) == 9 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 61,440 of other data a launch
// batch_r8 layers.0.gated.encode and 5 more · grid (8, 1, 1), 96 threads
using encode_13_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 8, .norm = false, .gated = true, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 1536, .up_stride = 1536, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 3, .used = 0, .each = false},
    imp::Silu>;
static_assert(encode_13_t::kThreads == 96, "the plan launches another number of threads");
static_assert(encode_13_t::kSharedBytes == 12, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(96, 1) encode_13(
    const float* x_gate,
    const float* x_up,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_13_t::run(encode_13_t::Args{
      .x = {.gate = x_gate, .up = x_up},
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_13_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 20,480 of other data a launch
// batch_r8 layers.0.down and 5 more · grid (16, 1, 1), 384 threads
using gemm_21_t = imp::GemmHeld<
    imp::BatchProduct{.cols = 768, .rows = 8, .stretches = 1, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::HeldConfig{.warps = 6, .slots = 3, .buffers = 3, .fold = 2},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_21_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_21_t::kSharedBytes == 48720, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_21(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_21_t::run(gemm_21_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = nullptr,
      .arrived = nullptr});
}
static_assert(sizeof(gemm_21_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 331,776 of other data a launch
// batch_r8 logits and 1 more · grid (16, 1, 1), 512 threads
using gemm_22_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 8, .stretches = 2, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 2, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_22_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_22_t::kSharedBytes == 17472, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_22(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_22_t::run(gemm_22_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_22_t::Args) == 8 * 8, "the plan leaves out a field");

// GatherRows · 0 bytes of weights, 16,384 of other data a launch
// head_r8 rows.layers.5.residual and 3 more · grid (2, 1, 1), 128 threads
using gather_rows_0_t = imp::GatherRows<
    imp::GatherConfig{.cols = 256, .stride = 256, .threads = 128}>;
static_assert(gather_rows_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(gather_rows_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) gather_rows_0(
    const imp::StepHeader* step,
    const imp::StepSequence* sequences,
    float* rows) {
  gather_rows_0_t::run(gather_rows_0_t::Args{
      .step = step,
      .sequences = sequences,
      .rows = rows});
}
static_assert(sizeof(gather_rows_0_t::Args) == 3 * 8, "the plan leaves out a field");

// Score · 0 bytes of weights, 131,072 of other data a launch
// sample_r8 score and 3 more · grid (132, 8, 1), 256 threads
using score_1_t = imp::Score<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true, .several = true}>;
static_assert(score_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(score_1_t::kSharedBytes == 80, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) score_1(
    const float* adjust_logits,
    const imp::StepHeader* adjust_step,
    const Sampling* adjust_sampling,
    const std::int32_t* adjust_positions,
    const std::int32_t* adjust_history,
    const std::int32_t* adjust_breakers,
    const Seen* adjust_seen,
    const std::uint32_t* adjust_mask,
    const float* adjust_bias,
    std::uint32_t* adjust_longest,
    const imp::StepSequence* adjust_sequences,
    float* scores,
    float* best_value,
    std::uint32_t* best,
    float* logit_value,
    std::uint32_t* logit_best) {
  score_1_t::run(score_1_t::Args{
      .adjust = {.logits = adjust_logits, .step = adjust_step, .sampling = adjust_sampling, .positions = adjust_positions, .history = adjust_history, .breakers = adjust_breakers, .seen = adjust_seen, .mask = adjust_mask, .bias = adjust_bias, .longest = adjust_longest, .sequences = adjust_sequences},
      .scores = scores,
      .best_value = best_value,
      .best = best,
      .logit_value = logit_value,
      .logit_best = logit_best});
}
static_assert(sizeof(score_1_t::Args) == 16 * 8, "the plan leaves out a field");

// Weigh · 0 bytes of weights, 65,536 of other data a launch
// sample_r8 weigh and 3 more · grid (132, 8, 1), 256 threads
using weigh_1_t = imp::Weigh<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true, .several = true}>;
static_assert(weigh_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(weigh_1_t::kSharedBytes == 16448, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) weigh_1(
    const imp::StepHeader* step,
    const Sampling* sampling,
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    const float* scores_adjusted,
    std::uint64_t* histogram,
    const imp::StepSequence* sequences) {
  weigh_1_t::run(weigh_1_t::Args{
      .step = step,
      .sampling = sampling,
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = scores_adjusted},
      .histogram = histogram,
      .sequences = sequences});
}
static_assert(sizeof(weigh_1_t::Args) == 8 * 8, "the plan leaves out a field");

// Sample · 0 bytes of weights, 65,536 of other data a launch
// sample_r8 draw and 3 more · grid (132, 8, 1), 256 threads
using draw_weighed_1_t = imp::Draw<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true, .several = true}>;
static_assert(draw_weighed_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(draw_weighed_1_t::kSharedBytes == 36016, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) draw_weighed_1(
    const Sampling* sampling,
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    const float* scores_adjusted,
    std::uint64_t* work_histogram,
    float* work_winner_value,
    std::uint32_t* work_winner,
    float* work_list_scores,
    std::uint32_t* work_list_ids,
    std::uint32_t* work_arrived,
    std::int32_t* memory_history,
    Seen* memory_seen,
    const imp::StepHeader* delivery_step,
    std::int32_t* delivery_tokens,
    std::int32_t* delivery_positions,
    std::uint32_t* delivery_count,
    std::uint64_t* delivery_ring,
    const imp::StepSequence* delivery_sequences,
    const std::uint32_t* delivery_first) {
  draw_weighed_1_t::run(draw_weighed_1_t::Args{
      .sampling = sampling,
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = scores_adjusted},
      .work = {.histogram = work_histogram, .winner_value = work_winner_value, .winner = work_winner, .list_scores = work_list_scores, .list_ids = work_list_ids, .arrived = work_arrived},
      .memory = {.history = memory_history, .seen = memory_seen},
      .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}});
}
static_assert(sizeof(draw_weighed_1_t::Args) == 20 * 8, "the plan leaves out a field");

// Sample · 0 bytes of weights, 131,072 of other data a launch
// sieve_r8 sieve and 3 more · grid (1, 8, 1), 512 threads
using sieve_1_t = imp::Sieve<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 1, .threads = 512, .listed = 8192, .ring = 1024, .weighed = true, .several = true}>;
static_assert(sieve_1_t::kThreads == 512, "the plan launches another number of threads");
static_assert(sieve_1_t::kSharedBytes == 16672, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) sieve_1(
    const imp::StepHeader* source_step,
    const Sampling* source_sampling,
    const imp::StepSequence* source_sequences,
    const float* source_scores_values,
    const float* source_scores_best_value,
    const std::uint32_t* source_scores_best,
    const float* source_scores_adjusted,
    float* surprise_limits,
    std::uint64_t* shares,
    std::uint64_t* histograms,
    std::uint32_t* arrived,
    float* surprises,
    std::int32_t* memory_history,
    Seen* memory_seen,
    const imp::StepHeader* delivery_step,
    std::int32_t* delivery_tokens,
    std::int32_t* delivery_positions,
    std::uint32_t* delivery_count,
    std::uint64_t* delivery_ring,
    const imp::StepSequence* delivery_sequences,
    const std::uint32_t* delivery_first) {
  sieve_1_t::run(sieve_1_t::Args{
      .source = {.step = source_step, .sampling = source_sampling, .sequences = source_sequences, .scores = {.values = source_scores_values, .best_value = source_scores_best_value, .best = source_scores_best, .adjusted = source_scores_adjusted}},
      .surprise_limits = surprise_limits,
      .scores = nullptr,
      .shares = shares,
      .histograms = histograms,
      .arrived = arrived,
      .surprises = surprises,
      .memory = {.history = memory_history, .seen = memory_seen},
      .delivery = {.step = delivery_step, .tokens = delivery_tokens, .positions = delivery_positions, .count = delivery_count, .ring = delivery_ring, .sequences = delivery_sequences, .first = delivery_first}});
}
static_assert(sizeof(sieve_1_t::Args) == 22 * 8, "the plan leaves out a field");

// ExportLogits · 0 bytes of weights, 131,072 of other data a launch
// export_r8 export and 3 more · grid (132, 8, 1), 256 threads
using export_logits_0_t = imp::ExportLogits<
    imp::ExportConfig{.vocab = 2048, .threads = 256, .several = true}>;
static_assert(export_logits_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(export_logits_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) export_logits_0(
    const float* logits,
    const imp::StepHeader* step,
    const Sampling* sampling,
    float* rows,
    const imp::StepSequence* sequences) {
  export_logits_0_t::run(export_logits_0_t::Args{
      .logits = logits,
      .step = step,
      .sampling = sampling,
      .rows = rows,
      .sequences = sequences});
}
static_assert(sizeof(export_logits_0_t::Args) == 5 * 8, "the plan leaves out a field");

// TopLogits · 0 bytes of weights, 65,536 of other data a launch
// top_r8 top and 3 more · grid (132, 8, 1), 256 threads
using top_logits_0_t = imp::TopLogits<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true, .several = true},
    64,
    256>;
static_assert(top_logits_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(top_logits_0_t::kSharedBytes == 3792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) top_logits_0(
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    const imp::StepHeader* step,
    const std::int32_t* tokens,
    const std::uint32_t* sampled,
    std::uint64_t* work_part_mass,
    std::uint64_t* work_listed,
    std::uint32_t* work_arrived,
    imp::TopEntry* entries,
    const imp::StepSequence* sequences,
    const Sampling* sampling) {
  top_logits_0_t::run(top_logits_0_t::Args{
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .step = step,
      .tokens = tokens,
      .sampled = sampled,
      .work = {.part_mass = work_part_mass, .listed = work_listed, .arrived = work_arrived},
      .entries = entries,
      .sequences = sequences,
      .sampling = sampling});
}
static_assert(sizeof(top_logits_0_t::Args) == 13 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 24,576 of other data a launch
// batch_r16 layers.0.attn_norm.encode and 13 more · grid (16, 1, 1), 32 threads
using encode_14_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 16, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 1, .used = 0, .each = false}>;
static_assert(encode_14_t::kThreads == 32, "the plan launches another number of threads");
static_assert(encode_14_t::kSharedBytes == 8, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(32, 1) encode_14(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_14_t::run(encode_14_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_14_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 237,568 of other data a launch
// batch_r16 layers.0.q_k_v and 5 more · grid (6, 1, 1), 512 threads
using gemm_23_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 16, .stretches = 2, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_23_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_23_t::kSharedBytes == 33856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_23(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_23_t::run(gemm_23_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_23_t::Args) == 10 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope → Attention → Encode · 0 bytes of weights, 57,344 of other data a launch
// batch_r16 layers.0.attention and 5 more · grid (4, 32, 1), 128 threads
using attention_2_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 4, .warps = 4, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f, .least = 4},
    imp::CacheF16<64>,
    4,
    16,
    512,
    imp::FragmentOrder>;
static_assert(attention_2_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attention_2_t::kSharedBytes == 35792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) attention_2(
    const float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const imp::StepRow* rows,
    const std::int32_t* positions,
    const std::int32_t* table,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    std::uint8_t* halfs,
    float* factors) {
  attention_2_t::run(attention_2_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .rows = rows,
      .positions = positions,
      .table = table,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sinks = nullptr,
      .halfs = halfs,
      .factors = factors});
}
static_assert(sizeof(attention_2_t::Args) == 15 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 90,112 of other data a launch
// batch_r16 layers.0.attn_output and 5 more · grid (2, 1, 1), 512 threads
using gemm_24_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 16, .stretches = 2, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_24_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_24_t::kSharedBytes == 33856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_24(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_24_t::run(gemm_24_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_24_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Linear · 417,792 bytes of weights, 499,712 of other data a launch
// batch_r16 layers.0.gate_up and 5 more · grid (12, 1, 1), 512 threads
using gemm_25_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 16, .stretches = 2, .stride = 1536, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_25_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_25_t::kSharedBytes == 33856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_25(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_25_t::run(gemm_25_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_25_t::Args) == 9 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 122,880 of other data a launch
// batch_r16 layers.0.gated.encode and 5 more · grid (16, 1, 1), 96 threads
using encode_15_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 16, .norm = false, .gated = true, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 1536, .up_stride = 1536, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 3, .used = 0, .each = false},
    imp::Silu>;
static_assert(encode_15_t::kThreads == 96, "the plan launches another number of threads");
static_assert(encode_15_t::kSharedBytes == 12, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(96, 1) encode_15(
    const float* x_gate,
    const float* x_up,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_15_t::run(encode_15_t::Args{
      .x = {.gate = x_gate, .up = x_up},
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_15_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 40,960 of other data a launch
// batch_r16 layers.0.down and 5 more · grid (16, 1, 1), 384 threads
using gemm_26_t = imp::GemmHeld<
    imp::BatchProduct{.cols = 768, .rows = 16, .stretches = 1, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::HeldConfig{.warps = 6, .slots = 3, .buffers = 3, .fold = 2},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_26_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_26_t::kSharedBytes == 57936, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_26(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step) {
  gemm_26_t::run(gemm_26_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = nullptr,
      .arrived = nullptr});
}
static_assert(sizeof(gemm_26_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 663,552 of other data a launch
// batch_r16 logits and 1 more · grid (16, 1, 1), 512 threads
using gemm_27_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 16, .stretches = 2, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_27_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_27_t::kSharedBytes == 33856, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_27(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_27_t::run(gemm_27_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_27_t::Args) == 8 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 49,152 of other data a launch
// batch_r32 layers.0.attn_norm.encode and 13 more · grid (32, 1, 1), 32 threads
using encode_16_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 32, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 1, .used = 0, .each = false}>;
static_assert(encode_16_t::kThreads == 32, "the plan launches another number of threads");
static_assert(encode_16_t::kSharedBytes == 8, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(32, 1) encode_16(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_16_t::run(encode_16_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_16_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 475,136 of other data a launch
// batch_r32 layers.0.q_k_v and 5 more · grid (6, 1, 1), 512 threads
using gemm_28_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 32, .stretches = 2, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_28_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_28_t::kSharedBytes == 66624, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_28(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_28_t::run(gemm_28_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_28_t::Args) == 10 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope → Attention → Encode · 0 bytes of weights, 114,688 of other data a launch
// batch_r32 layers.0.attention and 5 more · grid (4, 64, 1), 128 threads
using attention_3_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 4, .warps = 4, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f, .least = 4},
    imp::CacheF16<64>,
    4,
    32,
    512,
    imp::FragmentOrder>;
static_assert(attention_3_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attention_3_t::kSharedBytes == 35792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) attention_3(
    const float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const imp::StepRow* rows,
    const std::int32_t* positions,
    const std::int32_t* table,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    std::uint8_t* halfs,
    float* factors) {
  attention_3_t::run(attention_3_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .rows = rows,
      .positions = positions,
      .table = table,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sinks = nullptr,
      .halfs = halfs,
      .factors = factors});
}
static_assert(sizeof(attention_3_t::Args) == 15 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 180,224 of other data a launch
// batch_r32 layers.0.attn_output and 5 more · grid (2, 1, 1), 512 threads
using gemm_29_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 32, .stretches = 2, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_29_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_29_t::kSharedBytes == 66624, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_29(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_29_t::run(gemm_29_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_29_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Linear · 417,792 bytes of weights, 999,424 of other data a launch
// batch_r32 layers.0.gate_up and 5 more · grid (12, 1, 1), 512 threads
using gemm_30_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 32, .stretches = 2, .stride = 1536, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_30_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_30_t::kSharedBytes == 66624, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_30(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_30_t::run(gemm_30_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_30_t::Args) == 9 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 245,760 of other data a launch
// batch_r32 layers.0.gated.encode and 5 more · grid (32, 1, 1), 96 threads
using encode_17_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 32, .norm = false, .gated = true, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 1536, .up_stride = 1536, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 3, .used = 0, .each = false},
    imp::Silu>;
static_assert(encode_17_t::kThreads == 96, "the plan launches another number of threads");
static_assert(encode_17_t::kSharedBytes == 12, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(96, 1) encode_17(
    const float* x_gate,
    const float* x_up,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_17_t::run(encode_17_t::Args{
      .x = {.gate = x_gate, .up = x_up},
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_17_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 278,528 of other data a launch
// batch_r32 layers.0.down and 5 more · grid (6, 1, 1), 256 threads
using gemm_31_t = imp::GemmBatchWgmma<
    imp::BatchProduct{.cols = 768, .rows = 32, .stretches = 3, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchWgmmaConfig{.warps = 8, .stages = 1, .stays = true, .chain = 1, .fold = 3},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_31_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_31_t::kSharedBytes == 16456, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_31(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_31_t::run(gemm_31_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_31_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 1,327,104 of other data a launch
// batch_r32 logits and 1 more · grid (16, 1, 1), 512 threads
using gemm_32_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 32, .stretches = 2, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 8},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_32_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_32_t::kSharedBytes == 66624, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_32(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_32_t::run(gemm_32_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_32_t::Args) == 8 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 98,304 of other data a launch
// batch_r64 layers.0.attn_norm.encode and 13 more · grid (64, 1, 1), 32 threads
using encode_18_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 64, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = true, .fp4 = false, .peak = 14, .warps = 1, .used = 0, .each = false}>;
static_assert(encode_18_t::kThreads == 32, "the plan launches another number of threads");
static_assert(encode_18_t::kSharedBytes == 8, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(32, 1) encode_18(
    const float* x,
    const float* norm,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_18_t::run(encode_18_t::Args{
      .x = x,
      .norm = norm,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_18_t::Args) == 7 * 8, "the plan leaves out a field");

// Linear → Linear → Linear · 139,264 bytes of weights, 950,272 of other data a launch
// batch_r64 layers.0.q_k_v and 5 more · grid (6, 1, 1), 512 threads
using gemm_33_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 64, .stretches = 2, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 6},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_33_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_33_t::kSharedBytes == 99120, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_33(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    const std::uint8_t* plane_2,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_33_t::run(gemm_33_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1, plane_2},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_33_t::Args) == 10 * 8, "the plan leaves out a field");

// HeadNorm → HeadNorm → Rope → Rope → Attention → Encode · 0 bytes of weights, 229,376 of other data a launch
// batch_r64 layers.0.attention and 5 more · grid (4, 128, 1), 128 threads
using attention_4_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 4, .warps = 4, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f, .least = 4},
    imp::CacheF16<64>,
    4,
    64,
    512,
    imp::FragmentOrder>;
static_assert(attention_4_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attention_4_t::kSharedBytes == 35792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) attention_4(
    const float* qkv,
    const float* q_norm,
    const float* k_norm,
    const std::uint64_t* turns,
    std::uint8_t* cache,
    const imp::StepRow* rows,
    const std::int32_t* positions,
    const std::int32_t* table,
    float* partial,
    std::uint32_t* arrived,
    float* out,
    const imp::StepHeader* step,
    std::uint8_t* halfs,
    float* factors) {
  attention_4_t::run(attention_4_t::Args{
      .qkv = qkv,
      .q_norm = q_norm,
      .k_norm = k_norm,
      .turns = turns,
      .cache = cache,
      .rows = rows,
      .positions = positions,
      .table = table,
      .partial = partial,
      .arrived = arrived,
      .out = out,
      .step = step,
      .sinks = nullptr,
      .halfs = halfs,
      .factors = factors});
}
static_assert(sizeof(attention_4_t::Args) == 15 * 8, "the plan leaves out a field");

// Linear → Add · 69,632 bytes of weights, 360,448 of other data a launch
// batch_r64 layers.0.attn_output and 5 more · grid (2, 1, 1), 512 threads
using gemm_34_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 64, .stretches = 2, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 6},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_34_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_34_t::kSharedBytes == 99120, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_34(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_34_t::run(gemm_34_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_34_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Linear · 417,792 bytes of weights, 1,998,848 of other data a launch
// batch_r64 layers.0.gate_up and 5 more · grid (12, 1, 1), 512 threads
using gemm_35_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 64, .stretches = 2, .stride = 1536, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 6},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_35_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_35_t::kSharedBytes == 99120, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_35(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    const std::uint8_t* plane_1,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_35_t::run(gemm_35_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0, plane_1},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_35_t::Args) == 9 * 8, "the plan leaves out a field");

// Encode · 0 bytes of weights, 491,520 of other data a launch
// batch_r64 layers.0.gated.encode and 5 more · grid (64, 1, 1), 96 threads
using encode_19_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 64, .norm = false, .gated = true, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 1536, .up_stride = 1536, .panels = true, .fragments = false, .fp4 = false, .peak = 14, .warps = 3, .used = 0, .each = false},
    imp::Silu>;
static_assert(encode_19_t::kThreads == 96, "the plan launches another number of threads");
static_assert(encode_19_t::kSharedBytes == 12, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(96, 1) encode_19(
    const float* x_gate,
    const float* x_up,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_19_t::run(encode_19_t::Args{
      .x = {.gate = x_gate, .up = x_up},
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_19_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 557,056 of other data a launch
// batch_r64 layers.0.down and 5 more · grid (6, 1, 1), 256 threads
using gemm_36_t = imp::GemmBatchWgmma<
    imp::BatchProduct{.cols = 768, .rows = 64, .stretches = 3, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchWgmmaConfig{.warps = 8, .stages = 1, .stays = true, .chain = 1, .fold = 3},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_36_t::kThreads == 256, "the plan launches another number of threads");
static_assert(gemm_36_t::kSharedBytes == 32840, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) gemm_36(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_36_t::run(gemm_36_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_36_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear · 557,056 bytes of weights, 2,654,208 of other data a launch
// batch_r64 logits and 1 more · grid (16, 1, 1), 512 threads
using gemm_37_t = imp::GemmBatch<
    imp::BatchProduct{.cols = 256, .rows = 64, .stretches = 2, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f},
    imp::BatchConfig{.warps = 16, .slots = 1, .stages = 6},
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_37_t::kThreads == 512, "the plan launches another number of threads");
static_assert(gemm_37_t::kSharedBytes == 99120, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) gemm_37(
    const std::uint8_t* activations,
    const float* factors,
    const std::uint8_t* plane_0,
    float* y,
    const imp::StepHeader* step,
    float4* partial,
    std::uint32_t* arrived) {
  gemm_37_t::run(gemm_37_t::Args{
      .activations = activations,
      .factors = factors,
      .plane = {plane_0},
      .bias = {nullptr},
      .y = y,
      .step = step,
      .partial = partial,
      .arrived = arrived});
}
static_assert(sizeof(gemm_37_t::Args) == 8 * 8, "the plan leaves out a field");

// TakeRow · 0 bytes of weights, 2,048 of other data a launch
// head_r1 row.layers.5.residual · grid (1, 1, 1), 128 threads
using take_row_0_t = imp::TakeRow<
    imp::TakeRowConfig{.cols = 256, .threads = 128}>;
static_assert(take_row_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(take_row_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) take_row_0(
    const imp::StepHeader* step,
    const float* rows,
    float* x) {
  take_row_0_t::run(take_row_0_t::Args{
      .step = step,
      .rows = rows,
      .x = x});
}
static_assert(sizeof(take_row_0_t::Args) == 3 * 8, "the plan leaves out a field");

// ExportLogits · 0 bytes of weights, 16,384 of other data a launch
// export_r1 export · grid (132, 1, 1), 256 threads
using export_logits_1_t = imp::ExportLogits<
    imp::ExportConfig{.vocab = 2048, .threads = 256}>;
static_assert(export_logits_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(export_logits_1_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) export_logits_1(
    const float* logits,
    const imp::StepHeader* step,
    const Sampling* sampling,
    float* rows,
    const imp::StepSequence* sequences) {
  export_logits_1_t::run(export_logits_1_t::Args{
      .logits = logits,
      .step = step,
      .sampling = sampling,
      .rows = rows,
      .sequences = sequences});
}
static_assert(sizeof(export_logits_1_t::Args) == 5 * 8, "the plan leaves out a field");

// TopLogits · 0 bytes of weights, 8,192 of other data a launch
// top_r1 top · grid (132, 1, 1), 256 threads
using top_logits_1_t = imp::TopLogits<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 132, .threads = 256, .listed = 8192, .ring = 1024, .weighed = true},
    64,
    256>;
static_assert(top_logits_1_t::kThreads == 256, "the plan launches another number of threads");
static_assert(top_logits_1_t::kSharedBytes == 3792, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) top_logits_1(
    const float* scores_values,
    const float* scores_best_value,
    const std::uint32_t* scores_best,
    const imp::StepHeader* step,
    const std::int32_t* tokens,
    const std::uint32_t* sampled,
    std::uint64_t* work_part_mass,
    std::uint64_t* work_listed,
    std::uint32_t* work_arrived,
    imp::TopEntry* entries,
    const imp::StepSequence* sequences) {
  top_logits_1_t::run(top_logits_1_t::Args{
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .step = step,
      .tokens = tokens,
      .sampled = sampled,
      .work = {.part_mass = work_part_mass, .listed = work_listed, .arrived = work_arrived},
      .entries = entries,
      .sequences = sequences,
      .sampling = nullptr});
}
static_assert(sizeof(top_logits_1_t::Args) == 13 * 8, "the plan leaves out a field");

// Read · 0 bytes of weights, 0 of other data a launch
// bandwidth read · grid (1056, 1, 1), 512 threads
using read_0_t = imp::Read<
    imp::ReadConfig{.grid = 1056, .threads = 512}>;
static_assert(read_0_t::kThreads == 512, "the plan launches another number of threads");
static_assert(read_0_t::kSharedBytes == 0, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(512, 1) read_0(
    const std::uint8_t* begin,
    const std::uint8_t* end,
    std::uint32_t* sink) {
  read_0_t::run(read_0_t::Args{
      .begin = begin,
      .end = end,
      .sink = sink});
}
static_assert(sizeof(read_0_t::Args) == 3 * 8, "the plan leaves out a field");
