#include "direction.h"

namespace nvrm {
namespace {

constexpr Py_ssize_t field_count = 20;

DirectionBackend backend_of(const Tensor& s) {
#if defined(NVRM_WITH_CUDA)
  if (s.device().type == dlpack::cuda) return direction_on_cuda();
#endif
  NVRM_CHECK_VALUE(s.device().is_cpu(), "s must be on the CPU, got ", s.device());
  return direction_on_cpu();
}

}  // namespace

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
  if (in.s.numel() == 0) return pybind11::make_tuple(pybind11::none(), pybind11::none());
  const DirectionParts parts = backend_of(in.s).backward(in, out, ds);
  const pybind11::object sq_norm = parts.sq_norm.object ? parts.sq_norm.object : pybind11::none();
  return pybind11::make_tuple(parts.neurons.object, sq_norm);
}

}  // namespace nvrm
