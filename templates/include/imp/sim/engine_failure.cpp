// What went wrong in a launch, in words: the first failure is the one to tell.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "engine_worker.h"

namespace imp::sim {

char error_text[8192];

namespace {

std::mutex error_mutex;

void write_error(const char* format, va_list arguments, const Thread* thread, const Location* where) {
  const std::lock_guard lock(error_mutex);
  if (error_text[0]) return;
  int n = std::vsnprintf(error_text, sizeof error_text, format, arguments);
  const auto add = [&](const char* f, auto... values) {
    if (n >= 0 && n < static_cast<int>(sizeof error_text))
      n += std::snprintf(error_text + n, sizeof error_text - static_cast<std::size_t>(n), f, values...);
  };
  if (thread) {
    const Block& b = *thread->block;
    add("; block %d", b.index[0]);
    if (b.grid[1] * b.grid[2] > 1) add(",%d,%d", b.index[1], b.index[2]);
    add(", thread %d", thread->index);
  }
  if (where && where->line()) add(", at %s:%u", where->file_name(), where->line());
}

bool same_place(const Thread& a, const Thread& b) {
  return a.where.line() == b.where.line() && !std::strcmp(a.waits_in, b.waits_in) &&
         !std::strcmp(a.where.file_name(), b.where.file_name());
}

// "(thread 7 has ended): 63 in block_sync at file:line, ...": how many threads of a block wait where.
std::string whereabouts(const Block& block) {
  std::string text;
  for (const Thread& thread : block.thread) {
    if (thread.waits_in) continue;
    text = " (thread " + std::to_string(thread.index) + " has ended)";
    break;
  }
  const char* separator = ": ";
  for (const Thread& first : block.thread) {
    if (!first.waits_in) continue;
    int before = 0, in_all = 0;
    for (const Thread& thread : block.thread) {
      if (!thread.waits_in || !same_place(thread, first)) continue;
      before += thread.index < first.index;
      ++in_all;
    }
    if (before) continue;
    text += separator + std::to_string(in_all) + " in " + first.waits_in + " at " + first.where.file_name() + ":" +
            std::to_string(first.where.line());
    separator = ", ";
  }
  return text;
}

std::string name_of(const Block& block) {
  std::string name = std::to_string(block.index[0]);
  if (block.grid[1] * block.grid[2] > 1)
    name += "," + std::to_string(block.index[1]) + "," + std::to_string(block.index[2]);
  return name;
}

}  // namespace

void clear_error() { error_text[0] = 0; }

void set_error(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  write_error(format, arguments, nullptr, nullptr);
  va_end(arguments);
}

void abandon() {
  worker->launch->failed = true;
  Context nowhere;
  switch_context(nowhere, worker->main);
  __builtin_unreachable();
}

void fail(Location where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  write_error(format, arguments, current, &where);
  va_end(arguments);
  abandon();
}

void deadlock(Worker& w) {
  const Thread* first = nullptr;
  int waiting = 0, polling = 0;
  std::string blocks, last;
  for (int i = 0; i < w.at_once; ++i) {
    const Block& block = *w.blocks[i];
    for (const Thread& thread : block.thread) {
      if (!thread.waits_in) continue;
      if (!first) first = &thread;
      ++waiting;
      polling += thread.waits_in == poll_pause;
    }
    const std::string text = whereabouts(block);
    if (text == last) {
      blocks += " and " + name_of(block);
      continue;
    }
    // Blocks in the same situation share a text, which stands after the last of them.
    if (i > 0) blocks += last;
    blocks += "; block " + name_of(block);
    last = text;
  }
  blocks += last;
  current = const_cast<Thread*>(first);
  const bool apart = polling && !w.launch->resident && w.launch->blocks > 1;
  fail(first->where, "deadlock: %d threads wait for ever%s%s%s", waiting,
       polling ? ", and nothing changes for those that poll" : "",
       apart ? " (blocks run one after the other here: the kernel is not launched as resident)" : "", blocks.c_str());
}

}  // namespace imp::sim
