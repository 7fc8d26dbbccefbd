#include "stochastic.h"

namespace nvrm {
namespace {

constexpr Py_ssize_t field_count = 8;

StochasticBackend backend_of(const Tensor& z) {
#if defined(NVRM_WITH_CUDA)
  if (z.device().type == dlpack::cuda) return stochastic_on_cuda();
#endif
  NVRM_CHECK_VALUE(z.device().is_cpu(), "z must be on the CPU, got ", z.device());
  return stochastic_on_cpu();
}

}  // namespace

StochasticInputs::StochasticInputs(Fields& f) : z(f.tensor("z")), key(f.tensor("key")) {
  at = {f.integer(), f.integer(), f.integer(), f.integer(), f.integer(), f.number()};
  NVRM_CHECK_VALUE(z.dim() == 3 && z.size(1) % 2 == 0, "z must have shape (outer, 2 * neurons, inner), got ",
                   z.sizes());
  NVRM_CHECK_TYPE(z.is_floating_point(), "z must be a floating-point tensor, got ", z.type());
  check_key(key, z);
  check_stream(at.stream);
  NVRM_CHECK_VALUE(at.offset >= 0, "offset must not be negative, got ", at.offset);
  NVRM_CHECK_VALUE(at.activation == 0 || at.activation == 1, "activation must be a code in [0, 2), got ",
                   at.activation);
  NVRM_CHECK_VALUE(at.sums >= 0 && at.sums < sums_count, "sums must be a code in [0, ", sums_count, "), got ", at.sums);
  check_contiguous(z, "z");
}

pybind11::object stochastic_activation_from_python(const pybind11::tuple& call, const pybind11::object& y) {
  Fields fields(call, field_count);
  const StochasticInputs in(fields);
  const Tensor out(y.ptr(), "y");
  check_result(out, in.z.numel() / 2, in.z, "y");
  if (out.numel() == 0) return pybind11::none();
  return backend_of(in.z).forward(in, out, y).object_or_none();
}

void stochastic_activation_backward_from_python(const pybind11::tuple& call, const pybind11::object& dz) {
  Fields fields(call, field_count + 2);
  StochasticGradients out;
  out.grad = fields.tensor("grad");
  out.weight = fields.tensor("grad_sums");
  const StochasticInputs in(fields);
  const Tensor& grad = out.grad;
  NVRM_CHECK_VALUE(
      grad.dim() == 3 && grad.size(0) == in.outer() && grad.size(1) == in.neurons() && grad.size(2) == in.inner(),
      "grad must have the activations' shape, got ", grad.sizes());
  check_result(grad, in.z.numel() / 2, in.z, "grad");
  const Sums kind = in.at.kind();
  if (kind != Sums::nothing) {
    check_parameter(out.weight, kind == Sums::neuron ? in.neurons() : in.outer(), in.z, "grad_sums");
  }
  out.dz = Tensor(dz.ptr(), "dz");
  check_result(out.dz, in.z.numel(), in.z, "dz");
  if (out.dz.numel() > 0) backend_of(in.z).backward(in, out);
}

}  // namespace nvrm
