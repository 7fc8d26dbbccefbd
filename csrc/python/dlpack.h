// What this module uses of DLPack's C exchange API, version 1 (https://dmlc.github.io/dlpack): how it reads torch's
// tensors. The layout of these structs is a stable ABI, so that a module compiled once serves every torch that has it
// (2.10 and later), and compiling needs no torch.
#pragma once

#include <cstdint>

namespace nvrm::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2 };
enum TypeCode : uint8_t {
  signed_integer = 0,
  unsigned_integer = 1,
  floating = 2,
  bfloat = 4,
  complex = 5,
  boolean = 6
};

struct Device {
  int32_t type, index;
};

struct Type {
  uint8_t code, bits;
  uint16_t lanes;
};

// A tensor that somebody else owns. shape and strides (in elements) are the owner's too.
struct TensorView {
  void* data;
  Device device;
  int32_t dim;
  Type type;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

struct Header {
  Version version;
  const Header* previous;
};

// Functions return 0, or -1 with a Python exception set.
struct ExchangeApi {
  Header header;
  void* allocate;
  void* managed_from_python;
  void* managed_to_python;
  int (*view_from_python)(void* object, TensorView* view);
  int (*current_work_stream)(DeviceType type, int32_t index, void** stream);
};

}  // namespace nvrm::dlpack
