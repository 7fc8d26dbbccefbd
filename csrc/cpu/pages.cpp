#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nvrm {

void advise_huge_pages(uintptr_t address, uint64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{2} << 20;
  const uintptr_t begin = (address + page - 1) & ~(page - 1);
  const uintptr_t end = (address + bytes) & ~(page - 1);
  // It is advice: an error changes nothing but speed.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address;
  (void)bytes;
#endif
}

}  // namespace nvrm
