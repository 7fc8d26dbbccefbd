// torch's element types as the kernels name them.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include "../math/storage.h"

namespace nvrm {

// Raises TypeError, with the argument's name, for a type that no kernel has.
inline ScalarKind scalar_kind(c10::ScalarType dtype, const char* argument) {
  switch (dtype) {
    case c10::ScalarType::Float:
      return ScalarKind::float32;
    case c10::ScalarType::Double:
      return ScalarKind::float64;
    case c10::ScalarType::BFloat16:
      return ScalarKind::bfloat16;
    case c10::ScalarType::Half:
      return ScalarKind::float16;
    default:
      TORCH_CHECK_TYPE(false, argument, " must be float32, float64, bfloat16 or float16, got ", dtype);
  }
}

}  // namespace nvrm
