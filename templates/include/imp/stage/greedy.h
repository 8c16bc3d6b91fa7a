// The likeliest token, from the best logit of each of the LM head's CTAs. One CTA.
#pragma once
#include "imp/stage/sampling.h"

namespace imp {

template <SampleConfig C>
struct Greedy {
  static constexpr int kThreads = C.threads;
  static constexpr int kSharedBytes = best_bytes(C.threads / kWarp);

  struct Args {
    const float* best_value;    // [parts]
    const std::uint32_t* best;  // [parts]
    Delivery<C> delivery;
  };
  static __device__ __forceinline__ void run(const Args& a) {
    const auto turn = a.delivery.turn(a.delivery.end());
    grid_wait();
    const Best chosen = best_of_parts<C>(a.best_value, a.best, shared_memory());
    if (thread_index() == 0) a.delivery.deliver(turn, chosen);
  }
};

}  // namespace imp
