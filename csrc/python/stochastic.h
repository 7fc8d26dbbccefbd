// stochastic_activation and its backward as every device has them; nvrm_fast/ops/stochastic.py has the schemas, and
// nvrm_fast/ops/native.py calls this. A backend makes the pass: forward returns parts of the sums, backward writes the
// gradient for z.
#pragma once

#include "../math/stochastic_activation.h"
#include "fields.h"
#include "layer_arguments.h"

namespace nvrm {

// The operators' arguments besides tensors, in the schema's order.
struct StochasticSettings {
  int64_t stream, step, offset, activation, sums;
  double margin;

  Sums kind() const { return static_cast<Sums>(sums); }
};

// z and key, checked: z contiguous.
struct StochasticInputs {
  Tensor z, key;
  StochasticSettings at;

  // The next fields: two tensors and the settings. Raises ValueError or TypeError that names the argument.
  explicit StochasticInputs(Fields& f);

  int64_t outer() const { return z.size(0); }
  int64_t neurons() const { return z.size(1) / 2; }
  int64_t inner() const { return z.size(2); }
};

struct StochasticGradients {
  Tensor grad, weight, dz;  // weight: the gradient of the sums, float32
};

struct StochasticBackend {
  // like: the object of y, which makes the parts: of a sum for each neuron (parts, neurons * positions), for each
  // example (parts, examples) or (examples,); not there where nothing is summed up.
  Parts (*forward)(const StochasticInputs& in, const Tensor& y, const pybind11::object& like);
  void (*backward)(const StochasticInputs& in, const StochasticGradients& out);
};

StochasticBackend stochastic_on_cpu();
StochasticBackend stochastic_on_cuda();

// What Python calls. call: the schema's arguments, without float64; the results are made before. Nothing is written
// where there is nothing to compute. The first returns the parts or None.
pybind11::object stochastic_activation_from_python(const pybind11::tuple& call, const pybind11::object& y);
void stochastic_activation_backward_from_python(const pybind11::tuple& call, const pybind11::object& dz);

}  // namespace nvrm
