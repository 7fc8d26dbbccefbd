// Huge pages for the optimizer's state.
#pragma once

#include <cstdint>

namespace nvrm {

// Asks the system to back the whole 2 MiB pages within [address, address + bytes) by huge pages. To be called before
// the memory is first touched; without effect where the system has no such thing or does not want it.
//
// A step walks through several large arrays at once, and each 4 KiB page of each costs a walk through the page table.
void advise_huge_pages(uintptr_t address, uint64_t bytes);

}  // namespace nvrm
