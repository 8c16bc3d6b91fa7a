// The engine's C interface: launches, and how threads and blocks are to be run.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "engine_worker.h"

namespace imp::sim {

extern char error_text[8192];
constinit Observer* observer = nullptr;

namespace {

constexpr int max_threads = 1024;

std::mutex launch_mutex;
int configured_threads = 1;
Order configured_order = Order::ascending;
std::uint64_t configured_seed = 1;

using Call = void (*)(void* entry, const std::uint64_t* arguments);

// Entries with so many pointers as parameters.
template <std::size_t... I>
void call(void* entry, const std::uint64_t* a, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(decltype(static_cast<void>(I), std::uint64_t{})...)>(entry)(a[I]...);
}
template <std::size_t N>
void call_n(void* entry, const std::uint64_t* a) {
  call(entry, a, std::make_index_sequence<N>{});
}
template <std::size_t... N>
constexpr auto call_table(std::index_sequence<N...>) {
  struct Table {
    Call call[sizeof...(N)];
  };
  return Table{{call_n<N>...}};
}
constexpr int max_parameters = 24;
constexpr auto calls = call_table(std::make_index_sequence<max_parameters + 1>{});

// Entries with one struct of pointers as parameter. From the third pointer on it is passed in memory, where an entry does
// not notice that the one it gets is longer than its own.
template <int N>
struct Packed {
  std::uint64_t pointers[N];
};
template <int N>
void call_packed(void* entry, const std::uint64_t* a) {
  reinterpret_cast<void (*)(Packed<N>)>(entry)(*reinterpret_cast<const Packed<N>*>(a));
}
constexpr int max_packed = 4096;
Call packed_call(int n) {
  if (n <= 2) return n == 2 ? call_packed<2> : call_packed<1>;
  return n <= 64 ? call_packed<64> : n <= 256 ? call_packed<256> : n <= 1024 ? call_packed<1024> : call_packed<max_packed>;
}

}  // namespace
}  // namespace imp::sim

using namespace imp::sim;

extern "C" {

// The blocks of a resident launch wait for one another, and its entry takes the arguments as one struct.
// 0: done. Otherwise imp_sim_error says what happened; the launch was given up part way.
int imp_sim_launch(void* entry, const std::uint64_t* arguments, int n_arguments, const int* grid, int threads,
                   int shared_bytes, int resident) {
  const std::lock_guard lock(launch_mutex);
  clear_error();
  const int most = resident ? max_packed : max_parameters;
  if (!entry || n_arguments < 0 || n_arguments > most || threads < 32 || threads > max_threads || threads % 32 ||
      shared_bytes < 0 || shared_bytes > max_shared || grid[0] < 1 || grid[1] < 1 || grid[2] < 1 ||
      static_cast<long long>(grid[0]) * grid[1] > (1 << 30) / grid[2]) {
    set_error("bad launch: grid %d x %d x %d, %d threads (whole warps, up to %d), %d bytes shared (up to %d), %d arguments "
              "(up to %d)",
              grid[0], grid[1], grid[2], threads, max_threads, shared_bytes, max_shared, n_arguments, most);
    return 1;
  }
  std::vector<std::uint64_t> packed;
  if (resident) {
    packed.assign(max_packed, 0);
    std::copy(arguments, arguments + n_arguments, packed.begin());
  }
  Launch launch{entry,
                resident ? packed_call(n_arguments) : calls.call[n_arguments],
                resident ? packed.data() : arguments,
                {grid[0], grid[1], grid[2]},
                threads,
                shared_bytes,
                grid[0] * grid[1] * grid[2],
                resident != 0,
                configured_order,
                configured_seed};
  static std::vector<std::unique_ptr<Worker>> workers;
  const int n = observer || resident ? 1 : std::min(configured_threads, launch.blocks);
  while (static_cast<int>(workers.size()) < n) workers.push_back(std::make_unique<Worker>());
  if (observer) observer->launch_begins(resident ? launch.blocks : 1);
  std::vector<std::thread> others;
  for (int i = 1; i < n; ++i) others.emplace_back([&, i] { run_blocks(*workers[i], launch, i); });
  run_blocks(*workers[0], launch, 0);
  for (std::thread& other : others) other.join();
  if (observer) observer->launch_ends();
  if (!launch.failed) return 0;
  if (observer) observer->explain(error_text, sizeof error_text);
  Dl_info info;
  if (dladdr(entry, &info) && info.dli_sname) {
    const std::string text = error_text;
    std::snprintf(error_text, sizeof error_text, "kernel %s: %s", info.dli_sname, text.c_str());
  }
  return 1;
}

const char* imp_sim_error() { return error_text; }

// order: 0 ascending, 1 descending, 2 random (from the seed), of the blocks and of the threads that may run.
void imp_sim_configure(int threads, int order, std::uint64_t seed) {
  const std::lock_guard lock(launch_mutex);
  configured_threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
  configured_order = order == 1 ? Order::descending : order == 2 ? Order::random : Order::ascending;
  configured_seed = seed;
}

// Global memory that kernels may touch; only the check build looks.
void imp_sim_register(std::uint64_t address, std::uint64_t bytes, const char* name) {
  const std::lock_guard lock(launch_mutex);
  if (observer) observer->add_region(address, bytes, name);
}
void imp_sim_unregister(std::uint64_t address) {
  const std::lock_guard lock(launch_mutex);
  if (observer) observer->remove_region(address);
}

}  // extern "C"
