// Memory in large pages, where there are some: new ones and looking them up take less time.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gx {

constexpr size_t kLargePage = 1 << 21;

// Ask for large pages from now on; with `moves` also for what lies in small ones. Nobody minds if
// that is refused.
inline void use_large_pages(void* data, size_t bytes, bool moves) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto from = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (from + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = (from + bytes) / kLargePage * kLargePage;
  if (begin >= end || madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) != 0) {
    return;
  }
  constexpr int kCollapse = 25;  // newer than some headers
  if (moves) madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
#endif
}

}  // namespace gx
