// A BERT-shaped body: packed weights and the forward pass on packed sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "tables.h"

namespace polyrank {

struct Shape {
  int hidden_size;
  int num_layers;
  int num_heads;
  int intermediate_size;
  float layer_norm_eps;
  Activation activation;
};

// Linear layers of a transformer layer, in the order in which they run. Query, key and value are
// one layer of 3 * hidden_size outputs.
enum Linear { kQkv, kOut, kInner, kOuter, kNumLinears };

enum class Pooling { kTokens, kCls, kMean, kLast };

// Memory aligned to cache lines; its content is not initialised.
class Buffer {
 public:
  void reserve(size_t bytes);
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* p) const;
  };
  std::unique_ptr<char, Free> data_;
  size_t bytes_ = 0;
};

enum class Weights { kFloat32, kInt8, kBlocks, kBfloat16 };

struct PackedLinear {
  Weights type = Weights::kFloat32;
  int n = 0;
  int k = 0;
  Buffer weights;  // empty where they are read in place
  Buffer block_scales;  // of 4-bit blocks
  std::vector<const int8_t*> panels;  // of int8 weights, in equal parts one below the other
  std::vector<float> scales;
  std::vector<float> bias;
  std::vector<int32_t> corrections;
  std::vector<float> multipliers;  // of the inputs before they are quantised; may be empty
};

// Where the inputs of linear layers are noted; null where they are not. A width is that of the
// widest input, max(hidden_size, intermediate_size); narrower ones are filled up with zeros.
struct Inputs {
  float* widths;  // (num_layers, kNumLinears, width) largest magnitudes
  float* rows;    // (num_layers, kNumLinears, total_tokens, width)
};

struct Batch {
  const int32_t* input_ids;     // (total_tokens,)
  const int32_t* token_types;   // (total_tokens,) or null
  const int32_t* positions;     // (total_tokens,)
  const int32_t* cu_seqlens;    // (num_sequences + 1,)
  int num_sequences;
  size_t num_tokens;            // of the arrays, which the bounds must end with
};

class Body {
 public:
  Body(const Shape& shape, const Kernels* kernels);
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;

  void set_tables(Table words, Table positions, Table types);
  void set_embedding_norm(const float* gamma, const float* beta);
  // Packs (n, k) float weights given in `parts` equal parts, one below the other, as float32, int8 or
  // bfloat16. With int8, `multipliers` (k,) scale the inputs and their inverses the weights.
  void set_linear(int layer, Linear which, const float* const* parts, const float* const* biases,
                  int num_parts, Weights type, const float* multipliers, int num_threads);
  // Takes weights that are int8 already, with the value of a step of each output, (n, k).
  void set_linear_s8(int layer, Linear which, const int8_t* weights, const float* scales,
                     const float* bias, const float* multipliers);
  // Takes weights that lie in panels, in equal parts one below the other: reads them in place
  // where they are aligned, and else copies them.
  void set_linear_panels(int layer, Linear which, const int8_t* const* parts, int num_parts,
                         const float* scales, const float* bias, const float* multipliers);
  // Takes 4-bit blocks as they are stored (pack_blocks), in equal parts one below the other. Only
  // where the kernels have linear_s4.
  void set_linear_blocks(int layer, Linear which, const uint8_t* const* parts,
                         const uint16_t* const* scales, const float* const* biases, int num_parts);
  // which: 0 after attention, 1 after the feed-forward part.
  void set_norm(int layer, int which, const float* gamma, const float* beta);

  // Writes one row per sequence, or per token for kTokens, of hidden_size floats.
  // Safe to call from several threads. Checks every number by which anything is read: throws
  // std::out_of_range for a row that a table lacks,
  // std::invalid_argument for bounds that do not ascend or a body of which a part was not set.
  void run(const Batch& batch, Pooling pooling, int num_threads, float* out) const;

  // Runs a batch and notes what linear layers are given. Checks as `run` does.
  void note_inputs(const Batch& batch, const Inputs& inputs) const;

  const Kernels* kernels() const { return kernels_; }
  size_t packed_bytes() const;

 private:
  struct Norm {
    std::vector<float> gamma, beta;
  };
  struct Layer {
    PackedLinear linears[kNumLinears];
    Norm norms[2];
  };
  struct Pack;
  struct Scratch;

  PackedLinear& prepare(int layer, Linear which, Weights type);
  PackedLinear& prepare_s8(int layer, Linear which, const float* scales, const float* bias,
                           const float* multipliers);
  void check_set() const;
  void check(const Batch& batch) const;
  int rows_at_once() const;
  void reserve(const Pack& pack, Scratch& scratch) const;
  void run_pack(const Pack& pack, int member) const;
  void embed(const Pack& pack, int begin, int end) const;
  void attend(const Pack& pack, const void* qkv, int begin, int end, Scratch& scratch) const;
  void feed_forward(const Pack& pack, int layer, int begin, int end, Scratch& scratch) const;
  void apply(const Pack& pack, int layer, Linear which, int row, const float* x, size_t ld,
             int rows, Scratch& scratch, const Output& out) const;
  void multiply_bf16(const PackedLinear& linear, const void* rounded, int rows,
                     const Output& out) const;
  void note(const Pack& pack, int layer, Linear which, int row, const float* x, size_t ld,
            int rows) const;
  void run_packs(const Batch& batch, Pooling pooling, int num_threads, float* out,
                 const Inputs* inputs) const;
  size_t width_stride() const;
  size_t input_bytes() const;
  void pool(const Pack& pack, int sequence, Pooling pooling, float* out) const;

  Shape shape_;
  const Kernels* kernels_;
  Table words_, positions_, types_;
  Norm embedding_norm_;
  std::vector<Layer> layers_;
  bool is_bf16_ = false;  // whether there are linear layers of bfloat16
};

}  // namespace polyrank
