// Codes of four bits that a table of 16 whole numbers gives their meaning. Code j of a word is its nibble j, so that four of
// them select four bytes of a table in registers.
#pragma once
#include "imp/layout/tile.h"

namespace imp {

template <int... Values>
struct Table16 {
  static constexpr int kValues[] = {Values...};
  static_assert(sizeof...(Values) == 16, "four bits have 16 meanings");
  static_assert(((Values >= -127 && Values < 127) && ...), "numbers, and those that are one more, must be bytes");

  // A selector has three bits for eight bytes, and its fourth spreads the byte's sign. So looked up as it is, a code below 8
  // gives its entry of `first`, any other 0 or -1 by the sign of an entry; with the fourth bit turned, the same of `second`.
  // Entries make up for that: both together are what the code stands for. Two products cost less than choosing.
  struct Entries {
    int first[8];
    int second[8];
  };
  static constexpr Entries entries() {
    Entries e{};
    for (int i = 0; i < 8; i++) {
      const int low = kValues[i], high = kValues[8 + i];
      e.first[i] = low + (high < -1 || (high == -1 && low >= -1) ? 1 : 0);
      e.second[i] = high + (e.first[i] < 0 ? 1 : 0);
    }
    return e;
  }
  static constexpr bool exact() {
    for (int i = 0; i < 8; i++) {
      if (entries().first[i] + (entries().second[i] < 0 ? -1 : 0) != kValues[i]) return false;
      if (entries().second[i] + (entries().first[i] < 0 ? -1 : 0) != kValues[8 + i]) return false;
    }
    return true;
  }
  static constexpr std::uint32_t word(const int* four) {
    std::uint32_t bytes = 0;
    for (int i = 0; i < 4; i++) bytes |= (static_cast<std::uint32_t>(four[i]) & 255u) << 8 * i;
    return bytes;
  }

  // `sum` and the product of eight codes with eight activations.
  static __device__ __forceinline__ int dot(std::uint32_t codes, std::uint32_t x0, std::uint32_t x1, int sum) {
    static_assert(exact(), "the entries must add up to the numbers");
    constexpr std::uint32_t f0 = word(entries().first), f1 = word(entries().first + 4);
    constexpr std::uint32_t s0 = word(entries().second), s1 = word(entries().second + 4);
    const std::uint32_t first = lane_constant(f0), second = lane_constant(s0);
    const std::uint32_t turned = codes ^ 0x88888888u;
    sum = dp4a(byte_permute(first, f1, codes), x0, sum);
    sum = dp4a(byte_permute(second, s1, turned), x0, sum);
    sum = dp4a(byte_permute(first, f1, codes >> 16), x1, sum);
    return dp4a(byte_permute(second, s1, turned >> 16), x1, sum);
  }
  static __device__ __forceinline__ int dot16(std::uint32_t first, std::uint32_t second, const uint4& x) {
    return dot(second, x.z, x.w, dot(first, x.x, x.y, 0));
  }
  // Eight numbers as signed bytes.
  static __device__ __forceinline__ uint2 bytes(std::uint32_t codes) {
    constexpr std::uint32_t t0 = word(kValues), t1 = word(kValues + 4), t2 = word(kValues + 8), t3 = word(kValues + 12);
    const std::uint32_t entry = codes & 0x77777777u;
    const std::uint32_t upper = ((codes >> 1) & 0x44444444u) | 0x32103210u;  // bytes of the second eight entries
    return make_uint2(byte_permute(byte_permute(t0, t1, entry), byte_permute(t2, t3, entry), upper),
                      byte_permute(byte_permute(t0, t1, entry >> 16), byte_permute(t2, t3, entry >> 16), upper >> 16));
  }
  // 32 of them, k ascending.
  static __device__ __forceinline__ WordsOf32 words(const uint4& codes) {
    const uint2 a = bytes(codes.x), b = bytes(codes.y), c = bytes(codes.z), d = bytes(codes.w);
    return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
  }
  // What code `index` of a row of codes stands for.
  static __device__ __forceinline__ int value(const std::uint8_t* row, int index) {
    const std::uint32_t byte = row[index / 2];
    return static_cast<std::int8_t>(bytes(index % 2 == 0 ? byte : byte >> 4).x & 255u);
  }
};

// Blocks of 32 such codes with one scale each: all codes, then `Scales`, which says how those lie in the tile behind it:
// kBytes, load(its bytes, row, block) and weigh(a loaded one, number), the number times the scale.
template <TileShape T, class Table, class Scales>
struct TableTile {
  static constexpr TileShape kTile = T;
  static constexpr bool kInteger = true;
  static constexpr int kVector = 32;  // one block: 16 bytes
  static constexpr int kRowBytes = T.cols / 2;
  static constexpr int kScales = T.rows * kRowBytes;
  static constexpr int kTileBytes = kScales + Scales::kBytes;
  static_assert(T.cols % 32 == 0, "there are blocks of 32 weights");

  struct Lane {
    uint4 codes;
    typename Scales::Loaded scale;
  };
  struct Input {
    uint4 low;
    uint4 high;
    float d;
  };

  template <class Memory = Stream>
  static __device__ __forceinline__ Lane load(const std::uint8_t* tile, int row, int vector) {
    return {Memory::load16(tile + row * kRowBytes + vector * 16), Scales::load(tile + kScales, row, vector)};
  }
  static __device__ __forceinline__ Input input(const Q8Activations& x, int vector) {
    return {x.chunk(vector * 2), x.chunk(vector * 2 + 1), bits_to_float(x.scales[vector].x)};
  }
  static __device__ __forceinline__ float dot(const Lane& w, const Input& in, int, float before) {
    int sum = Table::dot(w.codes.x, in.low.x, in.low.y, 0);
    sum = Table::dot(w.codes.y, in.low.z, in.low.w, sum);
    sum = Table::dot(w.codes.z, in.high.x, in.high.y, sum);
    sum = Table::dot(w.codes.w, in.high.z, in.high.w, sum);
    return fma(Scales::weigh(w.scale, sum), in.d, before);
  }

  // Half `half` of a block.
  static __device__ __forceinline__ HalfPairs halfs(const Lane (&w)[1], int, int half) {
    const std::uint32_t d = twice(Scales::weigh(w[0].scale, 1));
    return Table::words(w[0].codes).template halfs<128>(half, [&](std::uint32_t pair) { return half2_multiply(pair, d); });
  }
  static __device__ __forceinline__ float value(const std::uint8_t* tile, int row, int col) {
    const float scale = Scales::weigh(Scales::load(tile + kScales, row, col / 32), 1);
    return scale * static_cast<float>(Table::value(tile + row * kRowBytes, col));
  }
};

}  // namespace imp
