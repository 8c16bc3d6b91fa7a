// Switching between stacks: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace imp::sim {

#ifdef __x86_64__

struct Context {
  void* stack_pointer = nullptr;
};

inline void prepare(Context& context, std::uint8_t* stack, std::size_t bytes, void (*start)()) {
  // `start` is jumped to; it must find the stack as after a call: 8 bytes short of a multiple of 16.
  auto** top = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(stack + bytes) & ~std::uintptr_t{15}) - 2;
  top[0] = reinterpret_cast<void*>(start);
  top[1] = nullptr;
  context.stack_pointer = top;
}

// The compiler saves what it keeps in registers across the switch, all of them being clobbered; rbp it will not let us
// name. The 128 bytes below the stack pointer may hold locals (red zone).
inline __attribute__((always_inline)) void switch_context(Context& from, Context& to) {
  void** save = &from.stack_pointer;
  void* load = to.stack_pointer;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmpq *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp\n"
      : "+D"(save), "+S"(load)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3",
        "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory",
        "cc");
}

#else

struct Context {
  ucontext_t state;
};

inline void prepare(Context& context, std::uint8_t* stack, std::size_t bytes, void (*start)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, start, 0);
}
inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#endif

}  // namespace imp::sim
