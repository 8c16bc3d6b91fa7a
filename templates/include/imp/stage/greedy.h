// The likeliest token, from the best logit of each of the LM head's CTAs. One CTA.
#pragma once
#include "imp/stage/sampling.h"

namespace imp {

template <SampleConfig C>
struct Greedy {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = best_bytes(C.threads / kWarp);

  static __device__ __forceinline__ void run(const float* best_value, const std::uint32_t* best,
                                             const Delivery<C>& delivery) {
    const auto turn = delivery.turn();
    grid_wait();
    const Best chosen = best_of_parts<C>(best_value, best, shared_memory());
    if (thread_index() == 0) delivery.deliver(turn, chosen);
  }
};

}  // namespace imp
