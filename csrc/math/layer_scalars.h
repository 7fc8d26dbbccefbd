// What the host works out for a pass of a layer with noise on the direction of its weights: plain data.
#pragma once

namespace nvrm {

// Constants of Marsaglia and Tsang's method; sure: where the logarithms need not be asked (activation.py), or 0.
struct GammaScalars {
  float d, c, sure;
};

// What all activations of a layer share, worked out once in float64.
struct LayerScalars {
  int fan_in;
  float tangent_rate;  // 1 / (fan_in - 3), of the tangent coordinate
  float sphere_rate;   // 1 / (fan_in - 2), of von Mises-Fisher's proposal
  float fan_in_less_one;
  GammaScalars chi;  // at shape (fan_in - 1) / 2
  float chi_two_d;
  GammaScalars gamma;
  float gamma_scale, gamma_alpha;
  bool gamma_boost;  // shape below 1
  float low, high;   // ends of a truncated normal angle
};

// Noise on the length of a weight vector. Codes in operator arguments: never renumber.
enum class Magnitude { none, normal, gamma };

// Sums over a neuron's activations, in this order in the partial sums.
enum NeuronSum {
  sum_scale,
  sum_magnitude_mean,
  sum_magnitude_std,
  sum_bias,
  sum_law_param_0,
  sum_law_param_1,
  neuron_sums
};

}  // namespace nvrm
