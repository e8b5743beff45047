// Functions for callers that keep tables of addresses; gradtx.ops.tables calls them.
#pragma once

#include <exception>
#include <string>

#define GX_ENTRY extern "C" __attribute__((visibility("default")))

namespace gx {

// Do it; gives null, or the message of what it throws, which lasts until the thread's next one.
template <typename Work>
const char* message_of(const Work& work) {
  thread_local std::string message;
  try {
    work();
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}

}  // namespace gx
