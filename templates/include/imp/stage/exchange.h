// Vectors that kernels, or the CTAs of one kernel, hand to one another: floats of 31 bits. The lowest bit of a word is free
// for a tag, which tells a reader that polls the word whether it is this step's or an older one.
#pragma once
#include "isa.h"

namespace imp {

// The nearest float whose last bit is zero (ties to even): what is handed on, tagged or not. NaN stays NaN: that of a GPU,
// 0x7fffffff, would round to -0.
__device__ __forceinline__ float untagged(float value) {
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t rounded = (bits + ((bits >> 1) & 1u)) & ~1u;
  return bits_to_float(value == value ? rounded : 0x7fc00000u);
}

// A plain vector, complete before anybody reads it.
struct PlainInput {
  const float* values;
  template <int N>
  __device__ __forceinline__ void read(float4 (&v)[N], const int (&at)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) {
      v[i] = at[i] >= 0 ? *reinterpret_cast<const float4*>(values + at[i]) : make_float4(0, 0, 0, 0);
    }
  }
  // One value each; 0 where `at` is negative.
  template <int N>
  __device__ __forceinline__ void gather(float (&v)[N], const int (&at)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = at[i] >= 0 ? values[at[i]] : 0;
  }
};

// A vector that other CTAs are writing: a reader takes a word once it bears the tag.
struct TaggedInput {
  const std::uint32_t* words;
  std::uint32_t tag;  // 0 or 1

  // A negative place reads the first one instead, which does no harm and keeps the loads together. Only what is old is
  // loaded again: what the CTAs stream must not wait for loads in vain.
  template <int N>
  __device__ __forceinline__ void read(float4 (&v)[N], const int (&at)[N]) const {
    uint4 w[N];
#pragma unroll
    for (int i = 0; i < N; i++) w[i] = load(at[i]);
    Poll poll("vector", tag);
    while (true) {
      std::uint32_t old = 0;
#pragma unroll
      for (int i = 0; i < N; i++) old |= age(w[i]);
      if ((old & 1u) == 0) break;
      poll.pause();
#pragma unroll
      for (int i = 0; i < N; i++) {
        if ((age(w[i]) & 1u) != 0) w[i] = load(at[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
      v[i] = at[i] >= 0 ? make_float4(value(w[i].x), value(w[i].y), value(w[i].z), value(w[i].w))
                        : make_float4(0, 0, 0, 0);
    }
  }
  template <int N>
  __device__ __forceinline__ void gather(float (&v)[N], const int (&at)[N]) const {
    std::uint32_t w[N];
    Poll poll("words", tag);
    while (true) {
      std::uint32_t old = 0;
#pragma unroll
      for (int i = 0; i < N; i++) w[i] = load_fresh(words + max(at[i], 0));
#pragma unroll
      for (int i = 0; i < N; i++) old |= w[i] ^ tag;
      if ((old & 1u) == 0) break;
      poll.pause();
    }
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = at[i] >= 0 ? value(w[i]) : 0;
  }
  static __device__ __forceinline__ float value(std::uint32_t word) { return bits_to_float(word & ~1u); }

 private:
  __device__ __forceinline__ uint4 load(int at) const {
    return load_fresh4(reinterpret_cast<const uint4*>(words + max(at, 0)));
  }
  // Odd if one of the words is old.
  __device__ __forceinline__ std::uint32_t age(const uint4& w) const {
    return (w.x ^ tag) | (w.y ^ tag) | (w.z ^ tag) | (w.w ^ tag);
  }
};

__device__ __forceinline__ void publish(std::uint32_t* word, float value, std::uint32_t tag) {
  store_fresh(word, float_to_bits(untagged(value)) | tag);
}
// A vector that this CTA has a part in writing. `Copied`: a check build keeps all values in `copy`, which nothing else
// writes, for who compares them.
template <bool Copied>
struct Published {
  std::uint32_t* words;
  std::uint32_t tag;
  float* copy;

  __device__ __forceinline__ void put(int at, float value) const {
    publish(words + at, value, tag);
    if constexpr (Copied) copy[at] = untagged(value);
  }
  __device__ __forceinline__ void put4(int at, float4 values) const {
    put(at, values.x);
    put(at + 1, values.y);
    put(at + 2, values.z);
    put(at + 3, values.w);
  }
};

}  // namespace imp
