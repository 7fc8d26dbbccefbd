#include "direction.h"

namespace nvrm {
namespace {

constexpr Py_ssize_t field_count = 20;

// tangent_given: sq_norm is the tangent part itself.
void check(const Tensor& s, const Tensor& sq_norm, const Tensor& key, const DirectionSettings& at) {
  NVRM_CHECK_VALUE(s.dim() == 3, "s must have shape (outer, neurons, inner), got ", s.sizes());
  NVRM_CHECK_TYPE(s.is_floating_point(), "s must be a floating-point tensor, got ", s.type());
  check_key(key, s);
  check_stream(at.stream);
  NVRM_CHECK_VALUE(at.direction >= 0 && at.direction < law_count, "law must be a code in [0, ", law_count - 1,
                   "], got ", at.direction);
  NVRM_CHECK_VALUE(at.magnitude >= 0 && at.magnitude <= 2, "magnitude must be a code in [0, 2], got ", at.magnitude);
  NVRM_CHECK_VALUE(at.offset >= 0 && at.offset + s.numel() <= (int64_t{1} << 56),
                   "offset must be in [0, 2^56 - activations], got ", at.offset);
  if (at.direction == 0) return;
  NVRM_CHECK_VALUE(at.fan_in >= 2,
                   "a weight vector of one element has no direction to turn: fan_in must be at least 2");
  NVRM_CHECK_VALUE(at.fan_in <= (int64_t{1} << 30), "fan_in must be at most 2^30, got ", at.fan_in);
  if (at.tangent_given) {
    NVRM_CHECK_VALUE(sq_norm.sizes() == s.sizes(), "a given tangent part must have s's shape ", s.sizes(), ", got ",
                     sq_norm.sizes());
    return;
  }
  NVRM_CHECK_VALUE(sq_norm.dim() == 3 && sq_norm.size(0) == s.size(0) && sq_norm.size(2) == s.size(2),
                   "sq_norm must have shape (", s.size(0), ", groups, ", s.size(2), "), got ", sq_norm.sizes());
  NVRM_CHECK_VALUE(sq_norm.size(1) > 0 && s.size(1) % sq_norm.size(1) == 0,
                   "sq_norm must have a number of groups that divides ", s.size(1), ", got ", sq_norm.size(1));
}

DirectionBackend backend_of(const Tensor& s) {
#if defined(NVRM_WITH_CUDA)
  if (s.device().type == dlpack::cuda) return direction_on_cuda();
#endif
  NVRM_CHECK_VALUE(s.device().is_cpu(), "s must be on the CPU, got ", s.device());
  return direction_on_cpu();
}

}  // namespace

DirectionInputs::DirectionInputs(Fields& f) {
  s = f.tensor("s");
  const Tensor given_sq_norm = f.tensor("sq_norm");
  scale = f.tensor("scale");
  magnitude_mean = f.tensor("magnitude_mean");
  const Tensor given_std = f.tensor_or_none("magnitude_std");
  bias = f.tensor_or_none("bias");
  f.skip(2);  // the law's parameters: kernels read its constants
  constants = f.tensor("constants");
  key = f.tensor("key");
  at = {f.integer(), f.integer(), f.integer(), f.integer(), f.integer(),
        f.integer(), f.number(),  f.number(),  f.number(),  f.flag()};
  check(s, given_sq_norm, key, at);
  check_contiguous(s, "s");
  groups = at.direction == 0 || at.tangent_given ? 1 : given_sq_norm.size(1);
  const int64_t neurons = s.size(1);
  check_parameter(scale, neurons, s, "scale");
  check_parameter(magnitude_mean, neurons, s, "magnitude_mean");
  if (at.magnitude != 0) {
    NVRM_CHECK_VALUE(given_std.is_there(), "magnitude noise needs magnitude_std");
    magnitude_std = given_std;
    check_parameter(magnitude_std, neurons, s, "magnitude_std");
  }
  if (bias.is_there()) check_parameter(bias, neurons, s, "bias");
  check_parameter(constants, law_sizes[at.direction].rows * neurons, s, "constants");
  if (at.direction != 0) {
    sq_norm = given_sq_norm;
    check_parameter(sq_norm, sq_norm.numel(), s, "sq_norm");
  }
}

void direction_noise_from_python(const pybind11::tuple& call, const pybind11::object& y) {
  Fields fields(call, field_count);
  const DirectionInputs in(fields);
  const Tensor out(y.ptr(), "y");
  check_result(out, in.s.numel(), in.s, "y");
  if (out.numel() > 0) backend_of(in.s).forward(in, out);
}

pybind11::tuple direction_noise_backward_from_python(const pybind11::tuple& call, const pybind11::object& ds,
                                                     const pybind11::object& d_tangent) {
  Fields fields(call, field_count + 2);
  DirectionGradients out;
  out.grad = fields.tensor("grad");
  const DirectionInputs in(fields);
  out.slopes = fields.flag();
  NVRM_CHECK_VALUE(out.grad.sizes() == in.s.sizes(), "grad must have s's shape ", in.s.sizes(), ", got ",
                   out.grad.sizes());
  check_result(out.grad, in.s.numel(), in.s, "grad");
  out.ds = Tensor(ds.ptr(), "ds");
  check_result(out.ds, in.s.numel(), in.s, "ds");
  if (in.at.direction != 0 && in.at.tangent_given) {
    out.d_tangent = Tensor(d_tangent.ptr(), "d_tangent");
    check_parameter(out.d_tangent, in.s.numel(), in.s, "d_tangent");
  }
  DirectionParts parts;
  if (in.s.numel() > 0) {
    parts = backend_of(in.s).backward(in, out, ds);
  } else {
    parts.neurons = Parts(ds, {0, neuron_sums, in.s.size(1)});
    if (in.has_sq_norm_parts()) parts.sq_norm = Parts(ds, {0, in.s.size(0), in.s.size(2)});
  }
  return pybind11::make_tuple(parts.neurons.object, parts.sq_norm.object_or_none());
}

}  // namespace nvrm
