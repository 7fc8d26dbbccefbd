// The launches of passes of layers, as the host would make them, with all memory that they touch before and after:
// activations and gradients by the CPU's kernels, sums by the kernels' own code on the CPU, which adds in their order.
// For test_layers.py; recorded_launches.cpp is the steps'.
#include "../csrc/emulated_direction.h"
#include "../csrc/emulated_stochastic.h"
#include "recording.h"

template <class Arguments>
static void put_launch(const char* kernel, const Arguments& arguments, int64_t ctas) {
  put_text("layer");
  put_text(kernel);
  put(static_cast<uint32_t>(ctas));
  put_bytes(&arguments, sizeof arguments);
}

static void add_piece(std::vector<Piece>& pieces, const Buffer& buffer) {
  if (buffer.size() > 0) pieces.push_back({buffer.data(), buffer.size()});
}

static void put_case(const std::string& name, const std::vector<Piece>& pieces) {
  put_text("layer case");
  put_text(name);
  put_pieces(pieces);
}

static void record(const StochasticCase& c) {
  StochasticPass p(c);
  std::vector<Piece> pieces = {{&p.seed, 8}};
  for (const Buffer* buffer : {&p.z, &p.grad, &p.weight, &p.out, &p.parts}) add_piece(pieces, *buffer);
  put_case(c.name(), pieces);
  const std::string kernel = "stochastic " + std::to_string(static_cast<int>(p.sums_in_pass()));
  put_launch((kernel + (c.backward ? " backward" : " forward")).c_str(), p.pass.arguments, p.pass.ctas);
  if (p.apart) put_launch("neuron sums", p.neurons.arguments, p.neurons.ctas);
  put_text("end");
  p.emulate();
  p.run_on_cpu();
  memcpy(p.out.data(), p.cpu_out.data(), p.out.size());
  put_pieces(pieces);
}

static const char* const law_names[] = {
#define NVRM_NAME(code, Law) #Law,
    NVRM_FOR_EACH_LAW(NVRM_NAME)
#undef NVRM_NAME
};

static void record(const DirectionCase& c) {
  DirectionPass p(c);
  std::vector<Piece> pieces = {{&p.seed, 8}};
  for (const Buffer* buffer : {&p.s, &p.grad, &p.sq_norm, &p.out, &p.tangent, &p.neuron_part, &p.sq_norm_part})
    add_piece(pieces, *buffer);
  for (const Buffer& buffer : p.parameters) add_piece(pieces, buffer);
  put_case(c.name(), pieces);
  const std::string kernel = "direction " + std::string(law_names[c.law]);
  put_launch((kernel + (c.backward ? " backward" : " forward")).c_str(), p.pass.arguments, p.pass.ctas);
  put_text("end");
  p.emulate();
  p.run_on_cpu();
  memcpy(p.out.data(), p.cpu_out.data(), p.out.size());
  if (p.tangent.size() > 0) memcpy(p.tangent.data(), p.cpu_tangent.data(), p.tangent.size());
  put_pieces(pieces);
}

static const ScalarKind storages[] = {ScalarKind::float32, ScalarKind::bfloat16, ScalarKind::float16};

static void record_stochastic() {
  struct Shape {
    int64_t outer, neurons, inner, offset, turns;
  };
  // Whole superblocks, aligned and not; objects that start anywhere; two column tiles; convolutions.
  const Shape shapes[] = {{9, 256, 1, 0, 2},  {5, 50, 3, 131, 1}, {1, 4200, 1, 0, 0}, {3, 32, 4, 4, 1},
                          {3, 128, 1, 77, 2}, {4, 128, 2, 0, 1},  {2, 20, 5, 0, 1},   {2, 2, 64, 3, 1},
                          {3, 128, 1, 5, 1},  {2, 128, 1, 6, 1}};
  int storage = 0;
  for (const Shape& shape : shapes) {
    for (int sums = 0; sums < sums_count; ++sums) {
      for (const bool backward : {false, true}) {
        record(StochasticCase{storages[(storage + sums) % 3], shape.outer, shape.neurons, shape.inner, shape.offset,
                              static_cast<Sums>(sums), backward, sums % 2 == 0, 0, shape.turns});
      }
    }
    ++storage;
  }
}

static void record_direction() {
  struct Shape {
    int64_t outer, neurons, inner, groups, turns;
    bool given;
    int fan_in;
    Magnitude magnitude;
  };
  const Shape shapes[] = {
      {10, 132, 1, 1, 2, false, 30, Magnitude::normal}, {3, 12, 20, 2, 1, false, 4, Magnitude::gamma},
      {2, 70, 1, 1, 1, true, 30, Magnitude::none},      {2, 3, 49, 1, 1, true, 2, Magnitude::gamma},
      {4, 7, 9, 1, 2, false, 2, Magnitude::none},       {6, 64, 1, 1, 1, false, 3, Magnitude::none},
  };
  int turn = 0;
  for (int law = 0; law < law_count; ++law) {
    for (const Shape& shape : shapes) {
      for (const bool backward : {false, true}) {
        DirectionCase c{storages[turn / 2 % 3],
                        law,
                        shape.magnitude,
                        shape.outer,
                        shape.neurons,
                        shape.inner,
                        law == 0 ? 1 : shape.groups,
                        shape.fan_in,
                        law != 0 && shape.given,
                        backward,
                        turn % 3,
                        shape.inner == 9 ? 1 : 0,
                        shape.turns};
        c.alpha = turn / 4 % 2 == 0 ? 1.5f : 0.5f;
        record(c);
        ++turn;
      }
    }
  }
}

int main(int, char** argv) {
  out = std::fopen(argv[1], "wb");
  record_stochastic();
  record_direction();
  put_text("done");
  return std::fclose(out);
}
