// qwen3 · Q8_0 · sim · imp 0.1.0 · text 0efc60eb69fc602a
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
#include "imp/stage/gemm_mma.h"
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
// step_r1 layers.0.qkv and 41 more · grid (2, 1, 1), 128 threads
using qkv_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 4, .grid = 2, .slots = 3},
    imp::EncodeConfig{.cols = 256, .warps = 4, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreRows<0>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(qkv_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(qkv_0_t::kSharedBytes == 13488, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) qkv_0(
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
// step_r1 layers.0.attention and 41 more · grid (2, 2, 1), 128 threads
using attention_0_t = imp::AttentionDecode<
    imp::AttentionConfig{.heads = 4, .kv_heads = 2, .values = 6, .head_dim = 64, .latent = 0, .block_tokens = 16, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .splits = 2, .warps = 4, .window = 0, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f, .soft_cap = 0.0f},
    imp::CacheF16<64>,
    3>;
static_assert(attention_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(attention_0_t::kSharedBytes == 27568, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) attention_0(
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
// step_r1 layers.0.attn_output and 41 more · grid (2, 1, 1), 128 threads
using project_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 4, .grid = 2, .slots = 3},
    imp::EncodeConfig{.cols = 256, .warps = 4, .q8 = true, .halfs = false, .dense = false, .norm = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::AddRows<0, 1.0f>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(project_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(project_0_t::kSharedBytes == 13472, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) project_0(
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
// step_r1 layers.0.gate_up and 41 more · grid (2, 1, 1), 128 threads
using gate_up_0_t = imp::GatedGemv<
    imp::GemvConfig{.warps = 4, .grid = 2, .slots = 3},
    imp::EncodeConfig{.cols = 256, .warps = 4, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreRows<0>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Silu>;
static_assert(gate_up_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(gate_up_0_t::kSharedBytes == 13488, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) gate_up_0(
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
// step_r1 layers.0.down and 41 more · grid (2, 1, 1), 128 threads
using project_1_t = imp::Gemv<
    imp::GemvConfig{.warps = 4, .grid = 2, .slots = 2},
    imp::EncodeConfig{.cols = 768, .warps = 4, .q8 = true, .halfs = false, .dense = false, .norm = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::AddRows<0, 1.0f>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(project_1_t::kThreads == 128, "the plan launches another number of threads");
static_assert(project_1_t::kSharedBytes == 27136, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) project_1(
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
// step_r1 head and 7 more · grid (2, 1, 1), 128 threads
using head_0_t = imp::Gemv<
    imp::GemvConfig{.warps = 4, .grid = 2, .slots = 3},
    imp::EncodeConfig{.cols = 256, .warps = 4, .q8 = true, .halfs = false, .dense = false, .norm = true, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false},
    imp::StoreLogits<imp::LogitsConfig{.warps = 4, .biased = 0, .scale = 1.0f, .cap = 0.0f}>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(head_0_t::kThreads == 128, "the plan launches another number of threads");
static_assert(head_0_t::kSharedBytes == 13520, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(128, 1) head_0(
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

// Sample · 0 bytes of weights, 16 of other data a launch
// step_r1 greedy · grid (1, 1, 1), 64 threads
using greedy_0_t = imp::Greedy<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(greedy_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(greedy_0_t::kSharedBytes == 16, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) greedy_0(
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
// step_draw_r1 draw and 1 more · grid (2, 1, 1), 64 threads
using draw_0_t = imp::Draw<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = false}>;
static_assert(draw_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(draw_0_t::kSharedBytes == 35920, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) draw_0(
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
// step_score_r1 score and 2 more · grid (2, 1, 1), 64 threads
using score_0_t = imp::Score<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(score_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(score_0_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) score_0(
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
// step_weigh_r1 weigh and 2 more · grid (2, 1, 1), 64 threads
using weigh_0_t = imp::Weigh<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(weigh_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(weigh_0_t::kSharedBytes == 16400, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) weigh_0(
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
// step_weigh_r1 draw and 2 more · grid (2, 1, 1), 64 threads
using draw_weighed_0_t = imp::Draw<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(draw_weighed_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(draw_weighed_0_t::kSharedBytes == 35920, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) draw_weighed_0(
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
// step_sieve_r1 sieve and 1 more · grid (2, 1, 1), 64 threads
using sieve_0_t = imp::Sieve<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true}>;
static_assert(sieve_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(sieve_0_t::kSharedBytes == 20560, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 2) sieve_0(
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

// Embed · 0 bytes of weights, 165,888 of other data a launch
// forward_r128 embed · grid (128, 1, 1), 128 threads
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

// Encode · 0 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attn_norm.encode and 12 more · grid (128, 1, 1), 256 threads
using encode_0_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 128, .norm = true, .gated = false, .dense = false, .eps = 1e-06f, .weighted = true, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 4, .warps = 8, .used = 0, .each = false}>;
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

// Linear → Linear → Linear · 139,264 bytes of weights, 327,680 of other data a launch
// forward_r128 layers.0.q_k_v and 5 more · grid (2, 1, 1), 384 threads
using gemm_0_t = imp::GemmMma<
    imp::MmaConfig{.cols = 256, .tokens = 128, .block_tokens = 128, .stride = 512, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .warps = 8, .token_warps = 1, .row_tiles = 1, .stages = 6, .half_sums = true, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 128, 256>>;
static_assert(gemm_0_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_0_t::kSharedBytes == 98736, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_0(
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

// HeadNorm → HeadNorm → Rope → Rope · 0 bytes of weights, 524,288 of other data a launch
// forward_r128 layers.0.attention.append and 5 more · grid (128, 1, 1), 256 threads
using append_0_t = imp::RopeAppend<
    imp::RopeAppendConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 128, .values = 6, .latent = 0, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .rope_dim = 64, .interleaved = false, .magnitude = 1.0f, .qk_norm = true, .whole_norm = false, .v_norm = false, .eps = 1e-06f, .scale = 0.18033688f},
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

// Attention · 0 bytes of weights, 262,144 of other data a launch
// forward_r128 layers.0.attention and 5 more · grid (2, 1, 1), 256 threads
using attend_0_t = imp::AttentionPrefill<
    imp::AttentionPrefillConfig{.heads = 4, .kv_heads = 2, .head_dim = 64, .rows = 128, .stride = 512, .table_blocks = 64, .block_groups = 1, .block_bytes = 49152, .window = 0, .soft_cap = 0.0f, .groups = 8, .ctas = 2, .spans = 2, .wgmma = false, .folds = false},
    imp::CacheF16<64>>;
static_assert(attend_0_t::kThreads == 256, "the plan launches another number of threads");
static_assert(attend_0_t::kSharedBytes == 36880, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) attend_0(
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

// Encode · 0 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attention.encode and 5 more · grid (128, 1, 1), 256 threads
using encode_1_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 256, .tokens = 128, .norm = false, .gated = false, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 0, .up_stride = 0, .panels = true, .fragments = false, .fp4 = false, .peak = 4, .warps = 8, .used = 0, .each = false}>;
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

// Linear → Add · 69,632 bytes of weights, 196,608 of other data a launch
// forward_r128 layers.0.attn_output and 5 more · grid (2, 1, 1), 384 threads
using gemm_1_t = imp::GemmMma<
    imp::MmaConfig{.cols = 256, .tokens = 128, .block_tokens = 128, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .warps = 8, .token_warps = 1, .row_tiles = 1, .stages = 6, .half_sums = true, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 256, 256>>;
static_assert(gemm_1_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_1_t::kSharedBytes == 98736, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_1(
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

// Linear → Linear · 417,792 bytes of weights, 851,968 of other data a launch
// forward_r128 layers.0.gate_up and 5 more · grid (2, 1, 1), 384 threads
using gemm_2_t = imp::GemmMma<
    imp::MmaConfig{.cols = 256, .tokens = 128, .block_tokens = 128, .stride = 1536, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .warps = 8, .token_warps = 1, .row_tiles = 1, .stages = 6, .half_sums = true, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 768, 256>>;
static_assert(gemm_2_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_2_t::kSharedBytes == 98736, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_2(
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

// Encode · 0 bytes of weights, 983,040 of other data a launch
// forward_r128 layers.0.gated.encode and 5 more · grid (128, 1, 1), 256 threads
using encode_2_t = imp::EncodeActivations<
    imp::ActivationsConfig{.cols = 768, .tokens = 128, .norm = false, .gated = true, .dense = false, .eps = 0.0f, .weighted = false, .post = false, .post_eps = 0.0f, .scaled = false, .keep = false, .gate_stride = 1536, .up_stride = 1536, .panels = true, .fragments = false, .fp4 = false, .peak = 4, .warps = 8, .used = 0, .each = false},
    imp::Silu>;
static_assert(encode_2_t::kThreads == 256, "the plan launches another number of threads");
static_assert(encode_2_t::kSharedBytes == 32, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(256, 1) encode_2(
    const float* x_gate,
    const float* x_up,
    std::uint8_t* panels,
    float* factors,
    const imp::StepHeader* step) {
  encode_2_t::run(encode_2_t::Args{
      .x = {.gate = x_gate, .up = x_up},
      .norm = nullptr,
      .planes = nullptr,
      .panels = panels,
      .factors = factors,
      .pairs = nullptr,
      .step = step});
}
static_assert(sizeof(encode_2_t::Args) == 8 * 8, "the plan leaves out a field");

// Linear → Add · 208,896 bytes of weights, 327,680 of other data a launch
// forward_r128 layers.0.down and 5 more · grid (2, 1, 1), 384 threads
using gemm_3_t = imp::GemmMma<
    imp::MmaConfig{.cols = 768, .tokens = 128, .block_tokens = 128, .stride = 256, .offset = 0, .accumulate = true, .biased = 0, .scale = 1.0f, .cap = 0.0f, .warps = 8, .token_warps = 1, .row_tiles = 1, .stages = 6, .half_sums = true, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 768}>, 256, 768>>;
static_assert(gemm_3_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_3_t::kSharedBytes == 98736, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_3(
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
// forward_r128 advance · grid (1, 1, 1), 32 threads
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

// Linear · 557,056 bytes of weights, 1,114,112 of other data a launch
// logits_r128 logits · grid (2, 1, 1), 384 threads
using gemm_4_t = imp::GemmMma<
    imp::MmaConfig{.cols = 256, .tokens = 128, .block_tokens = 128, .stride = 2048, .offset = 0, .accumulate = false, .biased = 0, .scale = 1.0f, .cap = 0.0f, .warps = 8, .token_warps = 1, .row_tiles = 1, .stages = 6, .half_sums = true, .paired = false, .experts = 0, .used = 0},
    imp::NoGate,
    imp::Matrix<imp::Q8_0<imp::TileShape{.rows = 4, .cols = 256}>, 2048, 256>>;
static_assert(gemm_4_t::kThreads == 384, "the plan launches another number of threads");
static_assert(gemm_4_t::kSharedBytes == 98736, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(384, 1) gemm_4(
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

// RmsNorm · 0 bytes of weights, 262,144 of other data a launch
// hidden_r128 hidden · grid (128, 1, 1), 256 threads
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
// export_r1 export · grid (2, 1, 1), 256 threads
using export_logits_0_t = imp::ExportLogits<
    imp::ExportConfig{.vocab = 2048, .threads = 256}>;
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

// TopLogits · 0 bytes of weights, 8,192 of other data a launch
// top_r1 top · grid (2, 1, 1), 64 threads
using top_logits_0_t = imp::TopLogits<
    imp::SampleConfig{.vocab = 2048, .context = 1024, .breakers = 1024, .parts = 2, .threads = 64, .listed = 8192, .ring = 1024, .weighed = true},
    64,
    256>;
static_assert(top_logits_0_t::kThreads == 64, "the plan launches another number of threads");
static_assert(top_logits_0_t::kSharedBytes == 3184, "the plan gives other shared memory");
extern "C" __global__ void __launch_bounds__(64, 1) top_logits_0(
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
  top_logits_0_t::run(top_logits_0_t::Args{
      .scores = {.values = scores_values, .best_value = scores_best_value, .best = scores_best, .adjusted = nullptr},
      .step = step,
      .tokens = tokens,
      .sampled = sampled,
      .work = {.part_mass = work_part_mass, .listed = work_listed, .arrived = work_arrived},
      .entries = entries,
      .sequences = sequences,
      .sampling = nullptr});
}
static_assert(sizeof(top_logits_0_t::Args) == 13 * 8, "the plan leaves out a field");

// Read · 0 bytes of weights, 0 of other data a launch
// bandwidth read · grid (16, 1, 1), 512 threads
using read_0_t = imp::Read<
    imp::ReadConfig{.grid = 16, .threads = 512}>;
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
