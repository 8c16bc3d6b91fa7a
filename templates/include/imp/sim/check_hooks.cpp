// What the instrumented kernels call, in place of the sanitizers' libraries, and how a place in them gets its line.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "check.h"

namespace imp::sim {

// Turns <pc 0x...> into file:line where addr2line exists, else into library+offset.
void Checker::explain(char* text, std::size_t capacity) {
  Dl_info info;
  if (!dladdr(&checker, &info) || !info.dli_fname) return;
  std::string library = info.dli_fname;
  // A library that lives in memory is known by this process's descriptor; addr2line is another process.
  if (library.starts_with("/proc/self/")) library = "/proc/" + std::to_string(getpid()) + library.substr(10);
  std::string out = text;
  for (std::size_t begin; (begin = out.find("<pc ")) != std::string::npos;) {
    const std::size_t end = out.find('>', begin);
    if (end == std::string::npos) break;
    const std::string offset = out.substr(begin + 4, end - begin - 4);
    std::string place = library + "+" + offset;
    if (library.find('\'') == std::string::npos) {
      const std::string command = "addr2line -i -e '" + library + "' " + offset + " 2>/dev/null";
      if (FILE* pipe = popen(command.c_str(), "r")) {
        // Innermost inlined function first: the first line outside the instruction layer is what the author wrote.
        char line[1024];
        std::string found;
        while (std::fgets(line, sizeof line, pipe)) {
          std::string one(line, std::strcspn(line, "\n"));
          one = one.substr(0, one.find(" (discriminator"));
          if (one.empty() || one[0] == '?') continue;
          if (found.empty() || found.find("/imp/sim/") != std::string::npos) found = one;
        }
        pclose(pipe);
        if (!found.empty()) place = found;
      }
    }
    out.replace(begin, end - begin + 1, place);
  }
  std::snprintf(text, capacity, "%s", out.c_str());
}

}  // namespace imp::sim

using imp::sim::checker;

#define HERE __builtin_return_address(0)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, unsigned long n) { checker.touched(p, n, false, 1, HERE); }
void __tsan_write_range(void* p, unsigned long n) { checker.touched(p, n, true, 1, HERE); }

#define IMP_ACCESS(N)                                                               \
  void __tsan_read##N(void* p) { checker.touched(p, N, false, N, HERE); }            \
  void __tsan_write##N(void* p) { checker.touched(p, N, true, N, HERE); }            \
  void __tsan_unaligned_read##N(void* p) { checker.touched(p, N, false, 1, HERE); }  \
  void __tsan_unaligned_write##N(void* p) { checker.touched(p, N, true, 1, HERE); }  \
  void __tsan_volatile_read##N(void* p) { checker.touched(p, N, false, N, HERE); }   \
  void __tsan_volatile_write##N(void* p) { checker.touched(p, N, true, N, HERE); }
IMP_ACCESS(1)
IMP_ACCESS(2)
IMP_ACCESS(4)
IMP_ACCESS(8)
IMP_ACCESS(16)

// What GCC says about a misaligned access: the place, and the type whose alignment it breaks.
struct MisalignedAccess {
  const char* file;
  unsigned line, column;
  struct {
    unsigned short kind, info;
    char name[1];
  } * type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(MisalignedAccess* at, unsigned long address) {
  if (!imp::sim::current) return;
  imp::sim::fail({}, "misaligned access: the address ends in 0x%lx, %s needs a multiple of %d; at %s:%u", address % 256,
                 at->type->name, 1 << at->log_alignment, at->file, at->line);
}

// The instruction layer announces its atomics itself; here they only have to happen. The check build runs one OS thread.
#define IMP_ATOMIC(BITS, T)                                                                                   \
  T __tsan_atomic##BITS##_load(const volatile T* p, int) { return *p; }                                       \
  void __tsan_atomic##BITS##_store(volatile T* p, T v, int) { *p = v; }                                       \
  T __tsan_atomic##BITS##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##BITS##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }   \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {                     \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
  }                                                                                                           \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) {                       \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
  }
IMP_ATOMIC(32, unsigned int)
IMP_ATOMIC(64, unsigned long)

}  // extern "C"
