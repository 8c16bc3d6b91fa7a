// Twins of SASS instructions over the simulator's engine, for what translate.py makes of a kernel; behind those of PTX
// (tests/ptx/machine.h). A register holds 32 bits, wider values lie in the next ones, too.

namespace imp::machine {

// The first KiB of a block's shared memory is the driver's.
constexpr u32 reserved_shared = 0x400;
// The upper half of a generic address that means shared memory; no address of the host has it.
constexpr u32 shared_window = 0xfff00000;
constexpr u32 local_bytes = 2048;
[[maybe_unused]] static thread_local u32 nowhere;

__forceinline__ u64 pair(u32 low, u32 high) { return u64{high} << 32 | low; }
__forceinline__ float negated(float x) { return std::bit_cast<float>(std::bit_cast<u32>(x) ^ 0x80000000u); }
__forceinline__ float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
__forceinline__ u32 twice_low(u32 pair) { return (pair & 0xffff) | pair << 16; }
__forceinline__ u32 twice_high(u32 pair) { return pair >> 16 | (pair & 0xffff0000); }

[[noreturn]] inline void fail_at(int line) { sim::fail(sim::Location::current(), "a return to nowhere, before line %d", line); }

// Memory.
inline u8* at_window(u32 address, sim::Location where = sim::Location::current()) {
  return at_shared(static_cast<u32>(address - reserved_shared), where);
}
inline u64* barrier_in(u32 address, sim::Location where = sim::Location::current()) {
  return reinterpret_cast<u64*>(at_window(address, where));
}
inline u8* at_generic(u64 address, sim::Location where = sim::Location::current()) {
  return address >> 32 == shared_window ? at_window(static_cast<u32>(address), where) : at_memory(address);
}
#define at_local(address) local_at(local, address)
inline u8* local_at(u8* local, u32 address, sim::Location where = sim::Location::current()) {
  if (address >= local_bytes) sim::fail(where, "the stack has %u bytes, the address is %u", local_bytes, address);
  return local + address;
}
template <class T>
__forceinline__ T parameter(const u8* bank, u32 offset, u32 size, sim::Location where = sim::Location::current()) {
  if (offset + sizeof(T) > size) sim::fail(where, "parameters have %u bytes, the offset is %u", size, offset);
  T value;
  std::memcpy(&value, bank + offset, sizeof value);
  return value;
}
template <class T>
inline bool swapped(u8* at, T before, T after) {
  const bool done = __atomic_compare_exchange_n(reinterpret_cast<T*>(at), &before, after, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  if (done) ++sim::current->block->changes;
  return done;
}

// Integers.
// Of a sum whose carries count: a negative term is the complement and one.
__forceinline__ u64 carried_term(u32 bits, bool negative) { return u64{bits} + negative; }
__forceinline__ u64 extended_term(u32 bits, bool) { return bits; }
template <class T>
__forceinline__ u64 product(u32 a, u32 b) {
  if constexpr (std::is_signed_v<T>)
    return static_cast<u64>(s64{static_cast<s32>(a)} * s64{static_cast<s32>(b)});
  else
    return u64{a} * b;
}
template <class T, bool Wrap>
__forceinline__ u32 shift_by(u32 by) {
  constexpr u32 bits = 8 * sizeof(T);
  return Wrap ? by % bits : by > bits ? bits : by;
}
template <class T, bool Wrap, bool High>
__forceinline__ u32 shift_left(u32 low, u32 by, u32 high) {
  const u32 n = shift_by<T, Wrap>(by);
  const u64 moved = n == 64 ? 0 : pair(low, high) << n;
  return static_cast<u32>(High ? moved >> 32 : moved);
}
template <class T, bool Wrap, bool High>
__forceinline__ u32 shift_right(u32 low, u32 by, u32 high) {
  const u32 n = shift_by<T, Wrap>(by);
  const u64 all = pair(low, high);
  const u64 fill = std::is_signed_v<T> && high >> 31 ? ~u64{0} : 0;
  const u64 moved = n == 0 ? all : n == 64 ? fill : (all >> n | fill << (64 - n));
  return static_cast<u32>(High ? moved >> 32 : moved);
}
template <class T, class A, class B>
__forceinline__ T least(A a, B b) {
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <class T, class A, class B>
__forceinline__ T most(A a, B b) {
  return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}

// Floats.
__forceinline__ float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__forceinline__ double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
template <int Mode, class Function, class... Values>
__attribute__((noinline)) auto rounded(Function function, Values... values) {
  std::fesetround(Mode);
  ((void)[](auto& value) { asm volatile("" : "+m"(value)); }(values), ...);
  volatile auto out = function(values...);
  std::fesetround(FE_TONEAREST);
  return static_cast<std::remove_volatile_t<decltype(out)>>(out);
}
__forceinline__ float real_most(float a, float b) { return imp::max(a, b); }
__forceinline__ float real_least(float a, float b) { return imp::min(a, b); }
__forceinline__ float real_most_nan(float a, float b) { return max_nan(a, b); }
__forceinline__ float real_least_nan(float a, float b) { return a < b || a != a ? a : b; }
__forceinline__ u32 reciprocal_high(u32 high) {
  return static_cast<u32>(std::bit_cast<u64>(1.0 / std::bit_cast<double>(u64{high} << 32)) >> 32);
}
// Where the short way of a division may not give the nearest float. It is this model's own choice, and on the safe side.
inline bool division_is_hard(float a, float b) {
  const int ea = static_cast<int>(std::bit_cast<u32>(a) >> 23 & 255), eb = static_cast<int>(std::bit_cast<u32>(b) >> 23 & 255);
  return eb < 2 || eb > 252 || ea > 253 || (ea < 26 && a != 0) || ea - eb > 124 || (a != 0 && eb - ea > 100);
}

// Barriers.
constexpr u64 one_arrival = u64{0x7ffff800} << 32 | 0x1ffffe;  // what a barrier begins as
inline void barrier_begin(u64* barrier, u64 state, sim::Location where = sim::Location::current()) {
  if (state != one_arrival) sim::fail(where, "a barrier of %#llx, not one arrival", static_cast<unsigned long long>(state));
  barrier_init(barrier, where);
}
// ptxas makes copies of an instruction for several ways to it.
inline void bar_sync(u32 id, u32 threads) {
  sim::block_arrive("bar.sync", static_cast<int>(id), static_cast<int>(threads), sim::Location::current());
}

}  // namespace imp::machine
