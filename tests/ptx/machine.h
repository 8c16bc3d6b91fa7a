// Twins of PTX instructions over the simulator's engine, for what translate.py makes of a kernel. Registers hold bits.
// Shared addresses are offsets into the block's shared memory, all others the host's.
// What a compiler leaves over need not please another.
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wunused-label"
#pragma GCC diagnostic ignored "-Wunused-parameter"

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"

namespace imp::machine {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using b8 = u8;
using b16 = u16;
using b32 = u32;
using b64 = u64;
using f32 = float;
using f64 = double;
using pred = bool;
struct f16 {
  u16 bits;
};
struct e4m3x2 {
  u16 bits;
};
struct e2m1x2 {
  u8 bits;
};
struct f16x2 {
  u32 bits;
};
struct bf16x2 {
  u32 bits;
};

template <int Bytes>
using Bits = std::conditional_t<Bytes == 1, u8, std::conditional_t<Bytes == 2, u16, std::conditional_t<Bytes == 4, u32, u64>>>;

// The lowest bits of a register, or of a number, as a value.
template <class T, class R>
__forceinline__ T get(R bits) {
  if constexpr (std::is_same_v<T, bool>)
    return bits != 0;
  else
    return std::bit_cast<T>(static_cast<Bits<sizeof(T)>>(bits));
}
template <class T, class R>
__forceinline__ T bits_as(R bits) {
  return std::bit_cast<T>(bits);
}
__forceinline__ float as_float(u32 bits) { return std::bit_cast<float>(bits); }
template <>
__forceinline__ float bits_as<float, u64>(u64 bits) {  // a number among registers
  return std::bit_cast<float>(static_cast<u32>(bits));
}
// Into a register, which may be wider: signed values spread their sign.
template <class R, class T>
__forceinline__ void set(R& out, T value) {
  if constexpr (std::is_same_v<R, bool>)
    out = value;
  else if constexpr (std::is_integral_v<T>)
    out = static_cast<R>(value);
  else
    out = std::bit_cast<Bits<sizeof(T)>>(value);
}

// Memory.
template <class T>
__forceinline__ u64 address_of(T& variable) {
  return reinterpret_cast<u64>(&variable);
}
__forceinline__ u64 to_shared(u64 generic) { return generic - reinterpret_cast<u64>(shared_memory()); }
__forceinline__ u64 from_shared(u64 offset) { return reinterpret_cast<u64>(shared_memory()) + offset; }
__forceinline__ u8* at_memory(u64 address) { return reinterpret_cast<u8*>(address); }
inline u8* at_shared(u64 offset, sim::Location where = sim::Location::current()) {
  const u32 at = static_cast<u32>(offset);
  if (at >= static_cast<u32>(sim::current->block->shared_bytes))
    sim::fail(where, "shared memory has %d bytes, the address is %u", sim::current->block->shared_bytes, at);
  return shared_memory() + at;
}
inline u64* barrier_at(u64 offset, sim::Location where = sim::Location::current()) {
  return reinterpret_cast<u64*>(at_shared(offset, where));
}
template <class T>
__forceinline__ T read(u64 address) {
  T value;
  std::memcpy(&value, at_memory(address), sizeof value);
  return value;
}
enum Order { weak, fresh };
// Who looks again and again lets others go on now and then.
inline void looks(sim::Location where) {
  if (++sim::current->polls % 16 == 0) sim::pause(where);
}
template <class T, Order order, class... Registers>
__forceinline__ void load(const u8* from, Registers&... registers) {
  sim::require_aligned(from, sizeof(T) * sizeof...(registers), "ld", sim::Location::current());
  if constexpr (order == fresh) looks(sim::Location::current());
  T values[sizeof...(registers)];
  if constexpr (order == fresh && sizeof...(registers) == 1)
    __atomic_load(reinterpret_cast<const T*>(from), &values[0], __ATOMIC_ACQUIRE);
  else
    std::memcpy(values, from, sizeof values);
  int i = 0;
  (set(registers, values[i++]), ...);
}
template <class T, Order order, class... Values>
__forceinline__ void store(u8* to, Values... given) {
  sim::require_aligned(to, sizeof(T) * sizeof...(given), "st", sim::Location::current());
  T values[] = {get<T>(given)...};
  if constexpr (order == fresh) {
    ++sim::current->block->changes;
    static_assert(sizeof...(given) == 1);
    __atomic_store(reinterpret_cast<T*>(to), &values[0], __ATOMIC_RELEASE);
  } else {
    std::memcpy(to, values, sizeof values);
  }
}
template <class T, class V>
__forceinline__ T atomic_add(u8* at, V value) {
  ++sim::current->block->changes;
  return __atomic_fetch_add(reinterpret_cast<T*>(at), get<T>(value), __ATOMIC_ACQ_REL);
}
template <class T, class V>
__forceinline__ T atomic_max(u8* at, V value) {
  ++sim::current->block->changes;
  T old = __atomic_load_n(reinterpret_cast<T*>(at), __ATOMIC_RELAXED);
  while (old < get<T>(value) &&
         !__atomic_compare_exchange_n(reinterpret_cast<T*>(at), &old, get<T>(value), false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline bool try_wait(u64* barrier, int parity, sim::Location where = sim::Location::current()) {
  barrier_wait(barrier, parity, where);
  return true;
}
inline bool test_wait(u64* barrier, int parity, sim::Location where = sim::Location::current()) {
  looks(where);
  return sim::phase_done(barrier, parity, where);
}

// Warps.
// All lanes of a warp, and no smaller groups.
inline void whole_warp(u64 bounds, u64 mask, sim::Location where) {
  if (static_cast<u32>(bounds) != 31 || static_cast<u32>(mask) != ~0u) sim::fail(where, "shfl among some of the lanes");
}
template <class V, class B>
inline u32 shuffle_bfly(V value, B by, u64 bounds, u64 mask, sim::Location where = sim::Location::current()) {
  whole_warp(bounds, mask, where);
  return shuffle(get<u32>(value), lane_index() ^ get<int>(by), where);
}
template <class V, class B>
inline u32 shuffle_idx(V value, B by, u64 bounds, u64 mask, sim::Location where = sim::Location::current()) {
  whole_warp(bounds, mask, where);
  return shuffle(get<u32>(value), get<int>(by), where);
}
template <class T, class V>
inline T redux_add_(V value, u64 mask, sim::Location where = sim::Location::current()) {
  whole_warp(31, mask, where);
  return static_cast<T>(warp_sum(get<int>(value), where));
}
template <class T, class V>
inline T redux_max_(V value, u64 mask, sim::Location where = sim::Location::current()) {
  static_assert(std::is_same_v<T, u32>, "of unsigned numbers");
  whole_warp(31, mask, where);
  return warp_max(get<u32>(value), where);
}
inline u32 vote_ballot(bool p, sim::Location where = sim::Location::current()) { return ballot(p, where); }

// What the descriptor says: lines of 128 bytes, swizzled, eight of them every 1,024 bytes.
template <int Columns, bool Lines>
inline void wgmma(float (&d)[Columns / 2], const u32 (&a)[4], u64 descriptor, sim::Location where = sim::Location::current()) {
  if (descriptor >> 62 != 1 || (descriptor >> 32 & 0x3fff) != 64)
    sim::fail(where, "wgmma: a descriptor of %#llx", static_cast<unsigned long long>(descriptor));
  const u32 address = static_cast<u32>(descriptor & 0x3fff) << 4;
  const int between = static_cast<int>(descriptor >> 16 & 0x3fff) << 4;
  if constexpr (Lines)
    sim::product_issue({{d}, {a}, at_shared(address), 0, Columns, between ? between : 1024}, where);
  else
    sim::product_issue({{d}, {a}, at_shared(address & ~127u), static_cast<int>(address & 127) / 32, Columns}, where);
  sim::product_commit(where);
  sim::product_wait(0, where);
}

// Values. mov, arithmetic and logic take operands as bits.
#define IMP_UNARY(name, expression)     \
  template <class T, class A>           \
  __forceinline__ auto name##_(A ra) {  \
    const T a = get<T>(ra);             \
    return expression;                  \
  }
#define IMP_BINARY(name, expression)         \
  template <class T, class A, class B>       \
  __forceinline__ auto name##_(A ra, B rb) { \
    const T a = get<T>(ra), b = get<T>(rb);  \
    return expression;                       \
  }
#define IMP_TERNARY(name, expression)                         \
  template <class T, class A, class B, class C>               \
  __forceinline__ auto name##_(A ra, B rb, C rc) {            \
    const T a = get<T>(ra), b = get<T>(rb), c = get<T>(rc);   \
    return expression;                                        \
  }

template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                                std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                                                   std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
// Without the undefined behaviour of C++ where integers overflow.
template <class T>
using Plain = std::conditional_t<sizeof(T) == 2, u32, std::make_unsigned_t<T>>;

template <class T>
__forceinline__ T sum_of(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a + b;
  else
    return static_cast<T>(static_cast<Plain<T>>(a) + static_cast<Plain<T>>(b));
}
template <class T>
__forceinline__ T difference_of(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a - b;
  else if constexpr (std::is_same_v<T, f16x2>)
    return T{half2_subtract(a.bits, b.bits)};
  else
    return static_cast<T>(static_cast<Plain<T>>(a) - static_cast<Plain<T>>(b));
}
template <class T>
__forceinline__ T product_of(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a * b;
  else if constexpr (std::is_same_v<T, f16x2>)
    return T{half2_multiply(a.bits, b.bits)};
  else
    return static_cast<T>(static_cast<Plain<T>>(a) * static_cast<Plain<T>>(b));
}

IMP_UNARY(mov, a)
IMP_BINARY(add, sum_of<T>(a, b))
IMP_BINARY(sub, difference_of<T>(a, b))
IMP_BINARY(mul, product_of<T>(a, b))
IMP_BINARY(mul_lo, product_of<T>(a, b))
IMP_BINARY(mul_hi, static_cast<T>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b) >> 8 * sizeof(T)))
IMP_BINARY(mul_wide, static_cast<Wide<T>>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)))
IMP_TERNARY(mad_lo, sum_of<T>(product_of<T>(a, b), c))
template <class T, class A, class B, class C>
__forceinline__ auto mad_wide_(A ra, B rb, C rc) {
  return static_cast<Wide<T>>(static_cast<Wide<T>>(get<T>(ra)) * static_cast<Wide<T>>(get<T>(rb)) + get<Wide<T>>(rc));
}
inline float add_toward_zero(float a, float b) {
  const double x = a, y = b, sum = x + y, part = sum - x, rest = (x - (sum - part)) + (y - part);
  float out = static_cast<float>(sum);
  const double over = static_cast<double>(out) - sum - rest;
  if (std::isfinite(out) && (out > 0 ? over > 0 : over < 0)) out = std::nextafterf(out, 0.0f);
  return out;
}
IMP_BINARY(add_rz, add_toward_zero(a, b))
template <class T, class A, class B>
__forceinline__ T division(A ra, B rb) {
  const T a = get<T>(ra), b = get<T>(rb);
  return a / b;
}
IMP_BINARY(div, static_cast<T>(a / b))
IMP_BINARY(div_approx, a / b)
IMP_BINARY(div_full, a / b)
IMP_BINARY(rem, static_cast<T>(a % b))
IMP_UNARY(neg, difference_of<T>(T{}, a))
template <>
__forceinline__ auto neg_<f32, u32>(u32 a) {
  return std::bit_cast<float>(a ^ 0x80000000u);
}
template <class T>
__forceinline__ T size_of(T a) {
  if constexpr (std::is_floating_point_v<T>)
    return std::fabs(a);
  else
    return a < 0 ? difference_of<T>(0, a) : a;
}
IMP_UNARY(abs, size_of<T>(a))
template <class T>
__forceinline__ T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return imp::max(a, b);
  else
    return a > b ? a : b;
}
template <class T>
__forceinline__ T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return imp::min(a, b);
  else
    return a < b ? a : b;
}
IMP_BINARY(copysign, std::copysign(b, a))
IMP_BINARY(max, larger<T>(a, b))
IMP_BINARY(min, smaller<T>(a, b))
IMP_BINARY(max_NaN, max_nan(a, b))
IMP_BINARY(and, static_cast<T>(a & b))
IMP_BINARY(or, static_cast<T>(a | b))
IMP_BINARY(xor, static_cast<T>(a ^ b))
template <class T, class A>
__forceinline__ T not_(A a) {
  if constexpr (std::is_same_v<T, bool>)
    return !a;
  else
    return static_cast<T>(~get<T>(a));
}
template <class T, class A, class N>
__forceinline__ T shl_(A ra, N n) {
  const u32 by = get<u32>(n);
  return by < 8 * sizeof(T) ? static_cast<T>(get<T>(ra) << by) : T{0};
}
template <class T, class A, class N>
__forceinline__ T shr_(A ra, N n) {
  const u32 by = get<u32>(n), most = 8 * sizeof(T) - 1;
  if (std::is_unsigned_v<T> && by > most) return 0;
  return static_cast<T>(get<T>(ra) >> (by > most ? most : by));
}
template <class T, class A, class B, class P>
__forceinline__ T selp_(A a, B b, P p) {
  return p ? get<T>(a) : get<T>(b);
}
template <class T, class A, class B, class C>
__forceinline__ T fma_(A ra, B rb, C rc) {
  if constexpr (std::is_same_v<T, f32>)
    return __builtin_fmaf(get<T>(ra), get<T>(rb), get<T>(rc));
  else if constexpr (std::is_same_v<T, f64>)
    return __builtin_fma(get<T>(ra), get<T>(rb), get<T>(rc));
  else
    return T{half2_fma(get<u32>(ra), get<u32>(rb), get<u32>(rc))};
}
IMP_UNARY(ex2_approx, exp2_fast(a))
IMP_UNARY(ex2_approx_ftz, exp2_flushed(a))
IMP_UNARY(lg2_approx, ::log2f(a))
IMP_UNARY(rsqrt_approx, rsqrt_fast(a))
IMP_UNARY(rcp_approx, 1.0f / a)
IMP_UNARY(rcp, T{1} / a)
IMP_UNARY(sqrt, std::sqrt(a))
IMP_UNARY(sqrt_approx, std::sqrt(a))
IMP_UNARY(popc, static_cast<u32>(std::popcount(a)))
IMP_UNARY(clz, static_cast<u32>(std::countl_zero(a)))
template <class T, class A>
__forceinline__ T brev_(A a) {
  T out = 0;
  for (unsigned i = 0; i < 8 * sizeof(T); ++i) out |= (get<T>(a) >> i & 1) << (8 * sizeof(T) - 1 - i);
  return out;
}
template <class T, class A, class B, class C, class D>
__forceinline__ T bfi_(A ra, B rb, C rc, D rd) {
  const u32 at = get<u32>(rc) & 255, width = get<u32>(rd) & 255;
  const T ones = width >= 8 * sizeof(T) ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << width) - 1);
  if (at >= 8 * sizeof(T)) return get<T>(rb);
  return static_cast<T>((get<T>(rb) & ~(ones << at)) | ((get<T>(ra) & ones) << at));
}
template <class T, class A, class B, class C>
__forceinline__ T bfe_(A ra, B rb, C rc) {
  const u32 at = get<u32>(rb) & 255, width = get<u32>(rc) & 255, bits = 8 * sizeof(T);
  if (width == 0) return 0;
  const u64 value = std::is_signed_v<T> ? static_cast<u64>(static_cast<s64>(get<T>(ra))) : static_cast<u64>(get<T>(ra));
  const u64 moved = at >= bits ? (std::is_signed_v<T> && get<T>(ra) < T{0} ? ~u64{0} : 0)
                    : std::is_signed_v<T> ? static_cast<u64>(static_cast<s64>(value) >> at) : value >> at;
  if (width >= bits) return static_cast<T>(moved);
  const u64 kept = moved & ((u64{1} << width) - 1);
  return static_cast<T>(std::is_signed_v<T> && kept >> (width - 1) ? kept | ~u64{0} << width : kept);
}
template <class T, class A, class B, class C, class D>
__forceinline__ T lop3_(A ra, B rb, C rc, D table) {
  const T a = get<T>(ra), b = get<T>(rb), c = get<T>(rc);
  T out = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return out;
}
template <class T, class A, class B, class S>
__forceinline__ T prmt_(A a, B b, S selector) {
  return byte_permute(get<u32>(a), get<u32>(b), get<u32>(selector));
}
template <class T, class A, class B, class N>
__forceinline__ T shf_r_wrap_(A low, B high, N by) {
  return static_cast<T>((static_cast<u64>(get<u32>(high)) << 32 | get<u32>(low)) >> (get<u32>(by) & 31));
}
template <class T, class A, class B, class N>
__forceinline__ T shf_l_wrap_(A low, B high, N by) {
  return static_cast<T>((static_cast<u64>(get<u32>(high)) << 32 | get<u32>(low)) << (get<u32>(by) & 31) >> 32);
}
template <class T, class U, class A, class B, class C>
__forceinline__ s32 dp4a_(A a, B b, C c) {
  static_assert(std::is_same_v<U, s32>);
  return std::is_signed_v<T> ? dp4a(get<u32>(a), get<u32>(b), get<int>(c)) : dp4a_unsigned(get<u32>(a), get<u32>(b), get<int>(c));
}
template <class... V>
__forceinline__ auto pack(V... parts) {
  if constexpr (sizeof...(parts) == 2 && (sizeof(V) + ...) >= 8) {
    const u64 all[] = {static_cast<u32>(parts)...};
    return all[0] | all[1] << 32;
  } else if constexpr (sizeof...(parts) == 2) {
    const u32 all[] = {static_cast<u16>(parts)...};
    return all[0] | all[1] << 16;
  } else {
    const u64 all[] = {static_cast<u16>(parts)...};
    return all[0] | all[1] << 16 | all[2] << 32 | all[3] << 48;
  }
}
template <class V, class... R>
__forceinline__ void unpack(V value, R&... parts) {
  u64 rest = value;
  ((parts = static_cast<R>(rest), rest >>= 8 * sizeof(R)), ...);
}

#define IMP_SETP(name, expression)                \
  template <class T, class A, class B>            \
  __forceinline__ bool setp_##name(A ra, B rb) {  \
    const T a = get<T>(ra), b = get<T>(rb);       \
    return expression;                            \
  }
// NaN makes the ordered ones false and the unordered ones true.
IMP_SETP(eq, a == b)
template <class T>
__forceinline__ bool unequal(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a < b || a > b;
  else
    return a != b;
}
IMP_SETP(ne, unequal(a, b))
IMP_SETP(lt, a < b)
IMP_SETP(le, a <= b)
IMP_SETP(gt, a > b)
IMP_SETP(ge, a >= b)
IMP_SETP(equ, !(a < b || a > b))
IMP_SETP(neu, a != b)
IMP_SETP(ltu, !(a >= b))
IMP_SETP(leu, !(a > b))
IMP_SETP(gtu, !(a <= b))
IMP_SETP(geu, !(a < b))
IMP_SETP(num, a == a && b == b)
IMP_SETP(nan, a != a || b != b)

// Conversions, by the way they round.
template <class D, class A>
inline D to_integer(A x) {
  if (x != x) return 0;
  if (x >= static_cast<A>(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
  if (x <= static_cast<A>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  return static_cast<D>(x);
}
template <class D, class S, class A>
__forceinline__ D cvt_(A ra) {
  const S a = get<S>(ra);
  if constexpr (std::is_same_v<S, f16>)
    return half_to_float(a.bits);
  else if constexpr (std::is_same_v<D, f16>)
    return f16{float_to_half(a)};
  else if constexpr (std::is_same_v<S, e4m3x2>)
    return D{e4m3x2_to_half2(a.bits)};
  else
    return static_cast<D>(a);
}
template <class D, class S, class A, class B>
__forceinline__ D cvt_(A ra, B rb) {
  const float high = get<float>(ra), low = get<float>(rb);
  if constexpr (std::is_same_v<D, f16x2>)
    return D{floats_to_half2(low, high)};
  else
    return D{floats_to_bfloat2(low, high)};
}
template <class D, class S, class A>
__forceinline__ D cvt_rzi_(A ra) {
  const S a = get<S>(ra);
  if constexpr (std::is_floating_point_v<D>)
    return std::trunc(a);
  else
    return to_integer<D>(std::trunc(a));
}
template <class D, class S, class A>
__forceinline__ D cvt_rni_(A ra) {
  const S a = get<S>(ra);
  if constexpr (std::is_floating_point_v<D>)
    return std::nearbyint(a);
  else
    return to_integer<D>(std::nearbyint(a));
}
template <class D, class S, class A>
__forceinline__ D cvt_rmi_(A ra) {
  if constexpr (std::is_floating_point_v<D>)
    return std::floor(get<S>(ra));
  else
    return to_integer<D>(std::floor(get<S>(ra)));
}
template <class D, class S, class A, class B>
__forceinline__ D cvt_satfinite_(A ra, B rb) {
  const float high = get<float>(ra), low = get<float>(rb);
  if constexpr (std::is_same_v<D, e4m3x2>)
    return D{static_cast<u16>(float_to_e4m3(low) | float_to_e4m3(high) << 8)};
  else
    return D{static_cast<u8>(floats_to_e2m1x2(low, high))};
}

}  // namespace imp::machine
