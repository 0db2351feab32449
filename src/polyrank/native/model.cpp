// The forward pass. Every row's bits depend on its own sequence alone: kernels treat rows alone,
// and how rows are shared out to threads changes only who computes them.
#include "model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "tables.h"
#include "threads.h"

namespace polyrank {
namespace {

constexpr size_t kAlignment = 64;
constexpr int kPackTokens = 1024;    // tokens that one thread takes through all layers at once
constexpr int kRowGrain = 16;        // rows are shared out in such steps
constexpr int kLeastRows = 256;      // at once, or weights are read again too often
constexpr int kMostThreads = 4096;   // of one run; more would only overflow sums of them
constexpr size_t kInnerBytes = 1536 << 10;  // of the widest activations, to stay in a core's cache

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void Buffer::Free::operator()(char* p) const {
  ::operator delete(p, std::align_val_t(kAlignment));
}

void Buffer::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  data_.reset();
  bytes_ = 0;
  data_.reset(static_cast<char*>(::operator new(rounded(bytes), std::align_val_t(kAlignment))));
  bytes_ = bytes;
}

// Sequences that a team of threads takes through all layers together.
struct Body::Pack {
  const Batch* batch;
  int first_sequence;
  int num_sequences;
  int first_token;
  int num_tokens;
  std::vector<int> row_bounds;  // of each member, num_members + 1
  Barrier* barrier;             // null for a team of one
  std::atomic<bool>* failed;    // set by a member that finds no memory
  float* x;                     // (num_tokens, hidden_size)
  float* context;               // (num_tokens, hidden_size)
  char* qkv[2];                 // (num_tokens, 3 * hidden_size), by turns; one for a team of one
  const Inputs* inputs;         // where inputs are noted, or null; with a team of one only
};

// What one thread works in.
struct Body::Scratch {
  Buffer quantised, scales, inner, attention;
};

Body::Body(const Shape& shape, const Kernels* kernels)
    : shape_(shape), kernels_(kernels), layers_(shape.num_layers) {}

void Body::set_tables(Table words, Table positions, Table types) {
  words_ = words;
  positions_ = positions;
  types_ = types;
}

void Body::set_embedding_norm(const float* gamma, const float* beta) {
  embedding_norm_.gamma.assign(gamma, gamma + shape_.hidden_size);
  embedding_norm_.beta.assign(beta, beta + shape_.hidden_size);
}

void Body::set_norm(int layer, int which, const float* gamma, const float* beta) {
  Norm& norm = layers_[layer].norms[which];
  norm.gamma.assign(gamma, gamma + shape_.hidden_size);
  norm.beta.assign(beta, beta + shape_.hidden_size);
}

void Body::set_linear(int layer, Linear which, const float* const* parts,
                      const float* const* biases, int num_parts, Weights type,
                      const float* multipliers, int num_threads) {
  PackedLinear& linear = prepare(layer, which, type);
  const int n = linear.n, k = linear.k;
  const int part_rows = n / num_parts;
  std::vector<float> bias(n);
  for (int p = 0; p < num_parts; ++p) {
    std::copy(biases[p], biases[p] + part_rows, bias.begin() + p * part_rows);
  }
  if (type == Weights::kInt8) {
    std::vector<int8_t> steps(static_cast<size_t>(n) * k);
    std::vector<float> scales(n);
    std::atomic<int> next{0};
    run_in_parallel(num_threads, [&](int) {
      for (int first; (first = next.fetch_add(64)) < n;) {
        for (int j = first; j < std::min(first + 64, n); ++j) {
          const float* in = parts[j / part_rows] + static_cast<size_t>(j % part_rows) * k;
          float most = 0;
          for (int i = 0; i < k; ++i) {
            float value = multipliers ? in[i] / multipliers[i] : in[i];
            most = std::max(most, std::fabs(value));
          }
          scales[j] = most / 127;
          const float inverse = most > 0 ? 127 / most : 0;
          int8_t* out = steps.data() + static_cast<size_t>(j) * k;
          for (int i = 0; i < k; ++i) {
            float value = multipliers ? in[i] / multipliers[i] : in[i];
            out[i] = static_cast<int8_t>(std::lrintf(value * inverse));
          }
        }
      }
    });
    set_linear_s8(layer, which, steps.data(), scales.data(), bias.data(), multipliers);
    return;
  }
  linear.bias = std::move(bias);
  if (type == Weights::kBfloat16) {
    linear.weights.reserve(panels_bf16_bytes(n, k));
    for (int p = 0; p < num_parts; ++p) {
      pack_bf16(parts[p], part_rows, k, p * part_rows, linear.weights.as<uint16_t>());
    }
    return;
  }
  const float* weights = parts[0];
  std::vector<float> joined;
  if (num_parts > 1) {
    joined.resize(static_cast<size_t>(n) * k);
    for (int p = 0; p < num_parts; ++p) {
      std::memcpy(joined.data() + static_cast<size_t>(p) * part_rows * k, parts[p],
                  static_cast<size_t>(part_rows) * k * 4);
    }
    weights = joined.data();
  }
  linear.weights.reserve(kernels_->packed_f32_bytes(n, k));
  kernels_->pack_f32(weights, n, k, linear.weights.as<float>());
}

PackedLinear& Body::prepare(int layer, Linear which, Weights type) {
  const int hidden = shape_.hidden_size, inner = shape_.intermediate_size;
  PackedLinear& linear = layers_[layer].linears[which];
  linear.type = type;
  is_bf16_ = is_bf16_ || type == Weights::kBfloat16;
  linear.n = which == kQkv ? 3 * hidden : which == kInner ? inner : hidden;
  linear.k = which == kOuter ? inner : hidden;
  return linear;
}

PackedLinear& Body::prepare_s8(int layer, Linear which, const float* scales, const float* bias,
                               const float* multipliers) {
  PackedLinear& linear = prepare(layer, which, Weights::kInt8);
  linear.scales.assign(scales, scales + linear.n);
  linear.bias.assign(bias, bias + linear.n);
  linear.multipliers.clear();
  if (multipliers) linear.multipliers.assign(multipliers, multipliers + linear.k);
  linear.panels.clear();
  linear.corrections.assign(kernels_->is_unsigned ? linear.n : 0, 0);
  return linear;
}

void Body::set_linear_s8(int layer, Linear which, const int8_t* weights, const float* scales,
                         const float* bias, const float* multipliers) {
  PackedLinear& linear = prepare_s8(layer, which, scales, bias, multipliers);
  linear.weights.reserve(panels_bytes(linear.n, linear.k));
  int8_t* panels = linear.weights.as<int8_t>();
  pack_panels(weights, linear.n, linear.k, panels);
  linear.panels.push_back(panels);
  if (kernels_->is_unsigned) {
    offset_corrections(panels, linear.n, linear.k, linear.corrections.data());
  }
}

void Body::set_linear_panels(int layer, Linear which, const int8_t* const* parts, int num_parts,
                             const float* scales, const float* bias, const float* multipliers) {
  PackedLinear& linear = prepare_s8(layer, which, scales, bias, multipliers);
  const int part_outputs = linear.n / num_parts;
  const size_t part_bytes = panels_bytes(part_outputs, linear.k);
  const bool is_aligned = std::all_of(parts, parts + num_parts, [](const int8_t* part) {
    return reinterpret_cast<uintptr_t>(part) % kAlignment == 0;
  });
  if (!is_aligned) linear.weights.reserve(part_bytes * num_parts);
  for (int p = 0; p < num_parts; ++p) {
    const int8_t* panels = parts[p];
    if (!is_aligned) {
      int8_t* copy = linear.weights.as<int8_t>() + p * part_bytes;
      std::memcpy(copy, panels, part_bytes);
      panels = copy;
    }
    linear.panels.push_back(panels);
    if (kernels_->is_unsigned) {
      offset_corrections(panels, part_outputs, linear.k,
                         linear.corrections.data() + p * part_outputs);
    }
  }
}

void Body::set_linear_blocks(int layer, Linear which, const uint8_t* const* parts,
                             const uint16_t* const* scales, const float* const* biases,
                             int num_parts) {
  PackedLinear& linear = prepare(layer, which, Weights::kBlocks);
  const int part_outputs = linear.n / num_parts;
  linear.bias.resize(linear.n);
  linear.weights.reserve(panels_bytes(linear.n, linear.k));
  linear.block_scales.reserve(static_cast<size_t>(linear.n) * (linear.k / kBlockInputs) * 4);
  for (int p = 0; p < num_parts; ++p) {
    std::copy(biases[p], biases[p] + part_outputs, linear.bias.begin() + p * part_outputs);
    pack_blocks(parts[p], scales[p], part_outputs, linear.k, p * part_outputs,
                linear.weights.as<uint8_t>(), linear.block_scales.as<float>());
  }
}

size_t Body::packed_bytes() const {
  size_t total = 0;
  for (const Layer& layer : layers_) {
    for (const PackedLinear& linear : layer.linears) {
      total += linear.weights.bytes() + linear.block_scales.bytes();
    }
  }
  return total;
}

size_t Body::width_stride() const {
  return static_cast<size_t>(std::max(shape_.hidden_size, shape_.intermediate_size));
}

void Body::apply(const Pack& pack, int layer, Linear which, int row, const float* x, size_t ld,
                 int rows, Scratch& scratch, const Output& out) const {
  const PackedLinear& linear = layers_[layer].linears[which];
  if (pack.inputs != nullptr) note(pack, layer, which, row, x, ld, rows);
  if (linear.type == Weights::kFloat32) {
    kernels_->linear_f32(x, ld, rows,
                         {linear.n, linear.k, linear.weights.as<float>(), linear.bias.data()}, out);
    return;
  }
  if (linear.type == Weights::kBlocks) {
    int8_t* steps = scratch.quantised.as<int8_t>();
    RowBlock* blocks = scratch.scales.as<RowBlock>();
    kernels_->quantize_blocks(x, ld, rows, linear.k, steps, blocks);
    kernels_->linear_s4(steps, blocks, rows,
                        {linear.n, linear.k, linear.weights.as<uint8_t>(),
                         linear.block_scales.as<float>(), linear.bias.data()},
                        out);
    return;
  }
  void* q = scratch.quantised.as<char>();
  if (linear.type == Weights::kBfloat16) {
    kernels_->round_rows(x, ld, rows, linear.k, q);
    multiply_bf16(linear, q, rows, out);
    return;
  }
  float* scales = scratch.scales.as<float>();
  kernels_->quantize(x, ld, rows, linear.k,
                     linear.multipliers.empty() ? nullptr : linear.multipliers.data(), q, scales);
  const int part_outputs = linear.n / static_cast<int>(linear.panels.size());
  Output part_out = out;
  for (size_t p = 0; p < linear.panels.size(); ++p) {
    const size_t at = p * part_outputs;
    part_out.values = static_cast<char*>(out.values) + at * (out.is_bf16 ? 2 : 4);
    if (out.residual != nullptr) part_out.residual = out.residual + at;
    kernels_->linear_s8(
        q, scales, rows,
        {part_outputs, linear.k, linear.panels[p], linear.scales.data() + at,
         linear.bias.data() + at,
         kernels_->is_unsigned ? linear.corrections.data() + at : nullptr},
        part_out);
  }
}

void Body::multiply_bf16(const PackedLinear& linear, const void* rounded, int rows,
                         const Output& out) const {
  kernels_->linear_bf16(
      rounded, rows, {linear.n, linear.k, linear.weights.as<uint16_t>(), linear.bias.data()}, out);
}

void Body::note(const Pack& pack, int layer, Linear which, int row, const float* x, size_t ld,
                int rows) const {
  const size_t place = static_cast<size_t>(layer) * kNumLinears + which, stride = width_stride();
  const int k = layers_[layer].linears[which].k;
  if (float* widths = pack.inputs->widths; widths != nullptr) {
    widths += place * stride;
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < k; ++j) widths[j] = std::max(widths[j], std::fabs(x[i * ld + j]));
    }
  }
  if (float* out = pack.inputs->rows; out != nullptr) {
    const Batch& batch = *pack.batch;
    const size_t first = batch.cu_seqlens[0];
    const size_t total = batch.cu_seqlens[batch.num_sequences] - first;
    out += (place * total + pack.first_token + row - first) * stride;
    for (int i = 0; i < rows; ++i) std::copy(x + i * ld, x + i * ld + k, out + i * stride);
  }
}

void Body::embed(const Pack& pack, int begin, int end) const {
  const int hidden = shape_.hidden_size;
  const Batch& batch = *pack.batch;
  for (int row = begin; row < end; ++row) {
    const size_t token = static_cast<size_t>(pack.first_token) + row;
    float* out = pack.x + static_cast<size_t>(row) * hidden;
    add_row(words_, batch.input_ids[token], hidden, true, out);
    add_row(types_, batch.token_types ? batch.token_types[token] : 0, hidden, false, out);
    add_row(positions_, batch.positions[token], hidden, false, out);
  }
  kernels_->layer_norm(pack.x + static_cast<size_t>(begin) * hidden, hidden, end - begin, hidden,
                       embedding_norm_.gamma.data(), embedding_norm_.beta.data(),
                       shape_.layer_norm_eps);
}

void Body::attend(const Pack& pack, const void* qkv, int begin, int end, Scratch& scratch) const {
  const int hidden = shape_.hidden_size, head_size = hidden / shape_.num_heads;
  const size_t element = kernels_->is_qkv_bf16 ? 2 : 4;
  for (int s = 0; s < pack.num_sequences; ++s) {
    const int32_t* bounds = pack.batch->cu_seqlens + pack.first_sequence + s;
    const int first = bounds[0] - pack.first_token, length = bounds[1] - bounds[0];
    const int from = std::max(begin - first, 0), to = std::min(end - first, length);
    if (from >= to) continue;
    AttentionCall call;
    call.qkv = static_cast<const char*>(qkv) + static_cast<size_t>(first) * 3 * hidden * element;
    call.ld = static_cast<size_t>(3) * hidden;
    call.seq_len = length;
    call.query_begin = from;
    call.query_end = to;
    call.head_size = head_size;
    call.ld_context = hidden;
    call.scratch = scratch.attention.as<char>();
    for (int head = 0; head < shape_.num_heads; ++head) {
      call.query_at = static_cast<size_t>(head) * head_size;
      call.key_at = call.query_at + hidden;
      call.value_at = call.key_at + hidden;
      call.context = pack.context + static_cast<size_t>(first) * hidden + call.query_at;
      kernels_->attention(call);
    }
  }
}

void Body::feed_forward(const Pack& pack, int number, int begin, int end,
                        Scratch& scratch) const {
  const Layer& layer = layers_[number];
  const int hidden = shape_.hidden_size, inner = shape_.intermediate_size;
  const int step = rows_at_once();
  // bfloat16 inputs of the last layer are written as such by the one before
  const bool is_narrow = layer.linears[kInner].type == Weights::kBfloat16 &&
                         layer.linears[kOuter].type == Weights::kBfloat16 &&
                         kernels_->bf16_bytes == 2 && pack.inputs == nullptr;
  float* wide = scratch.inner.as<float>();
  for (int row = begin; row < end; row += step) {
    const int rows = std::min(step, end - row);
    float* x = pack.x + static_cast<size_t>(row) * hidden;
    const float* context = pack.context + static_cast<size_t>(row) * hidden;
    const size_t ld = hidden;
    apply(pack, number, kOut, row, context, ld, rows, scratch,
          {x, ld, false, Activation::kIdentity, x, ld});
    kernels_->layer_norm(x, ld, rows, hidden, layer.norms[0].gamma.data(),
                         layer.norms[0].beta.data(), shape_.layer_norm_eps);
    apply(pack, number, kInner, row, x, ld, rows, scratch,
          {wide, static_cast<size_t>(inner), is_narrow, shape_.activation, nullptr, 0});
    const Output out{x, ld, false, Activation::kIdentity, x, ld};
    if (is_narrow) {
      multiply_bf16(layer.linears[kOuter], wide, rows, out);
    } else {
      apply(pack, number, kOuter, row, wide, inner, rows, scratch, out);
    }
    kernels_->layer_norm(x, ld, rows, hidden, layer.norms[1].gamma.data(),
                         layer.norms[1].beta.data(), shape_.layer_norm_eps);
  }
}

// Rows whose widest activations stay in a core's cache.
int Body::rows_at_once() const {
  const int fit = static_cast<int>(kInnerBytes / (static_cast<size_t>(shape_.intermediate_size) * 4));
  return std::max(1, std::max(fit, kLeastRows) / kernels_->row_block) * kernels_->row_block;
}

// Takes all memory that a member will need, so that nothing can fail between barriers.
void Body::reserve(const Pack& pack, Scratch& scratch) const {
  const size_t rows = (static_cast<size_t>(rows_at_once()) + 63) / 64 * 64;
  scratch.quantised.reserve(rows * padded_k(static_cast<int>(width_stride())) * input_bytes());
  const size_t blocks = (width_stride() + kBlockInputs - 1) / kBlockInputs;
  scratch.scales.reserve(rows * (kernels_->linear_s4 ? blocks * sizeof(RowBlock) : sizeof(float)));
  scratch.inner.reserve(rows * shape_.intermediate_size * sizeof(float));
  int longest = 0;
  for (int s = 0; s < pack.num_sequences; ++s) {
    const int32_t* bounds = pack.batch->cu_seqlens + pack.first_sequence + s;
    longest = std::max(longest, bounds[1] - bounds[0]);
  }
  scratch.attention.reserve(
      kernels_->attention_scratch(longest, shape_.hidden_size / shape_.num_heads));
}

// Of a value of the widest type that inputs of linear layers are turned into.
size_t Body::input_bytes() const {
  const int bytes = kernels_->step_bytes;
  return static_cast<size_t>(is_bf16_ ? std::max(bytes, kernels_->bf16_bytes) : bytes);
}

void Body::run_pack(const Pack& pack, int member) const {
  static thread_local Scratch scratch;
  try {
    reserve(pack, scratch);
  } catch (const std::bad_alloc&) {
    *pack.failed = true;
  }
  if (pack.barrier) pack.barrier->wait();
  if (*pack.failed) return;
  const int hidden = shape_.hidden_size;
  const int begin = pack.row_bounds[member], end = pack.row_bounds[member + 1];
  const int step = rows_at_once();
  const size_t element = kernels_->is_qkv_bf16 ? 2 : 4;
  kernels_->begin();
  embed(pack, begin, end);
  for (int i = 0; i < shape_.num_layers; ++i) {
    char* qkv = pack.qkv[i % 2];
    for (int row = begin; row < end; row += step) {
      const int rows = std::min(step, end - row);
      const size_t ld = static_cast<size_t>(3) * hidden;
      apply(pack, i, kQkv, row, pack.x + static_cast<size_t>(row) * hidden, hidden, rows, scratch,
            {qkv + row * ld * element, ld, kernels_->is_qkv_bf16, Activation::kIdentity, nullptr,
             0});
    }
    // Keys and values of all members are needed now. The next layer writes to the other buffer,
    // so nobody overtakes a reader: to write to this one again takes one more barrier.
    if (pack.barrier) pack.barrier->wait();
    attend(pack, qkv, begin, end, scratch);
    feed_forward(pack, i, begin, end, scratch);
  }
  kernels_->end();
  if (pack.barrier) pack.barrier->wait();
}

void Body::pool(const Pack& pack, int sequence, Pooling pooling, float* out) const {
  const int hidden = shape_.hidden_size;
  const int32_t* bounds = pack.batch->cu_seqlens + pack.first_sequence + sequence;
  const int length = bounds[1] - bounds[0];
  const float* rows = pack.x + static_cast<size_t>(bounds[0] - pack.first_token) * hidden;
  if (pooling == Pooling::kTokens) {
    std::memcpy(out, rows, static_cast<size_t>(length) * hidden * 4);
    return;
  }
  const float* one = pooling == Pooling::kLast ? rows + static_cast<size_t>(length - 1) * hidden : rows;
  std::memcpy(out, one, static_cast<size_t>(hidden) * 4);
  if (pooling != Pooling::kMean) return;
  for (int i = 1; i < length; ++i) {
    const float* row = rows + static_cast<size_t>(i) * hidden;
    for (int j = 0; j < hidden; ++j) out[j] += row[j];
  }
  for (int j = 0; j < hidden; ++j) out[j] /= static_cast<float>(length);
}

void Body::run(const Batch& batch, Pooling pooling, int num_threads, float* out) const {
  check_set();
  check(batch);
  run_packs(batch, pooling, std::clamp(num_threads, 1, kMostThreads), out, nullptr);
}

// Nothing of it is read before it was set.
void Body::check_set() const {
  bool is_set = words_.rows && positions_.rows && types_.rows && !embedding_norm_.gamma.empty();
  for (const Layer& layer : layers_) {
    for (const PackedLinear& linear : layer.linears) is_set = is_set && linear.n > 0;
    for (const Norm& norm : layer.norms) is_set = is_set && !norm.gamma.empty();
  }
  if (!is_set) throw std::invalid_argument("a table, a norm or a linear layer was not set");
}

// Here, at the one door to all reading of tables, so that no caller's mistake gets past it. It is
// one pass over a few integers a token, which then costs some hundred thousand multiplications.
void Body::check(const Batch& batch) const {
  const int32_t* bounds = batch.cu_seqlens;
  bool is_ascending = batch.num_sequences > 0 && bounds[0] == 0;
  for (int s = 0; is_ascending && s < batch.num_sequences; ++s) {
    is_ascending = bounds[s] < bounds[s + 1];
  }
  if (!is_ascending || static_cast<size_t>(bounds[batch.num_sequences]) != batch.num_tokens) {
    throw std::invalid_argument(
        "cu_seqlens must begin with 0, ascend and end with the number of tokens");
  }
  const int32_t first = 0;
  check_rows(words_, batch.input_ids, batch.num_tokens, "token id");
  check_rows(positions_, batch.positions, batch.num_tokens, "position");
  check_rows(types_, batch.token_types ? batch.token_types : &first,
             batch.token_types ? batch.num_tokens : 1, "token type");
}

void Body::note_inputs(const Batch& batch, const Inputs& inputs) const {
  check_set();
  check(batch);
  const size_t tokens = batch.cu_seqlens[batch.num_sequences] - batch.cu_seqlens[0];
  const size_t places = layers_.size() * kNumLinears * width_stride();
  if (inputs.widths != nullptr) std::fill(inputs.widths, inputs.widths + places, 0.0f);
  if (inputs.rows != nullptr) std::fill(inputs.rows, inputs.rows + places * tokens, 0.0f);
  std::vector<float> out(static_cast<size_t>(batch.num_sequences) * shape_.hidden_size);
  run_packs(batch, Pooling::kCls, 1, out.data(), &inputs);
}

void Body::run_packs(const Batch& batch, Pooling pooling, int num_threads, float* out,
                     const Inputs* inputs) const {
  const int hidden = shape_.hidden_size;
  const int total = batch.cu_seqlens[batch.num_sequences] - batch.cu_seqlens[0];
  const size_t element = kernels_->is_qkv_bf16 ? 2 : 4;
  const bool is_team = num_threads > 1 && (batch.num_sequences < 2 * num_threads ||
                                           total < num_threads * kPackTokens / 2);
  // Packs of whole sequences, all of about the same number of tokens.
  std::vector<int> firsts{0};
  if (!is_team && num_threads > 0) {
    int num_packs = (total + kPackTokens - 1) / kPackTokens;
    num_packs = (num_packs + num_threads - 1) / num_threads * num_threads;
    const double share = static_cast<double>(total) / num_packs;
    for (int s = 1; s < batch.num_sequences; ++s) {
      const int before = batch.cu_seqlens[s] - batch.cu_seqlens[0];
      if (before >= share * static_cast<double>(firsts.size())) firsts.push_back(s);
    }
  }
  const int num_packs = static_cast<int>(firsts.size());
  firsts.push_back(batch.num_sequences);

  std::atomic<bool> failed{false};
  auto make_pack = [&](int p, int num_members, Buffer& memory, Barrier* barrier) {
    Pack pack;
    pack.failed = &failed;
    pack.batch = &batch;
    pack.first_sequence = firsts[p];
    pack.num_sequences = firsts[p + 1] - firsts[p];
    pack.first_token = batch.cu_seqlens[firsts[p]];
    pack.num_tokens = batch.cu_seqlens[firsts[p + 1]] - pack.first_token;
    pack.barrier = barrier;
    pack.inputs = inputs;
    const int grains = (pack.num_tokens + kRowGrain - 1) / kRowGrain;
    for (int m = 0; m <= num_members; ++m) {
      pack.row_bounds.push_back(
          std::min(pack.num_tokens, grains * m / num_members * kRowGrain));
    }
    const size_t rows = static_cast<size_t>(pack.num_tokens);
    const size_t row_bytes = rounded(rows * hidden * 4), qkv_bytes = rounded(rows * 3 * hidden * element);
    memory.reserve(2 * row_bytes + (num_members > 1 ? 2 : 1) * qkv_bytes);
    char* at = memory.as<char>();
    pack.x = reinterpret_cast<float*>(at);
    pack.context = reinterpret_cast<float*>(at + row_bytes);
    pack.qkv[0] = at + 2 * row_bytes;
    pack.qkv[1] = num_members > 1 ? pack.qkv[0] + qkv_bytes : pack.qkv[0];
    return pack;
  };
  auto finish = [&](const Pack& pack, int s) {
    const int sequence = pack.first_sequence + s;
    const size_t row = pooling == Pooling::kTokens
                           ? static_cast<size_t>(batch.cu_seqlens[sequence] - batch.cu_seqlens[0])
                           : static_cast<size_t>(sequence);
    pool(pack, s, pooling, out + row * hidden);
  };

  if (is_team) {
    static thread_local Buffer memory;
    const int num_members =
        std::max(1, std::min(num_threads, (total + kRowGrain - 1) / kRowGrain));
    Barrier barrier(num_members);
    Pack pack = make_pack(0, num_members, memory, num_members > 1 ? &barrier : nullptr);
    run_in_parallel(num_members, [&](int member) {
      run_pack(pack, member);
      if (failed) return;
      for (int s = member; s < pack.num_sequences; s += num_members) finish(pack, s);
    });
    if (failed) throw std::bad_alloc();
    return;
  }
  std::atomic<int> next{0};
  run_in_parallel(std::min(num_threads, num_packs), [&](int) {
    static thread_local Buffer memory;
    for (int p; !failed && (p = next.fetch_add(1)) < num_packs;) {
      try {
        const Pack pack = make_pack(p, 1, memory, nullptr);
        run_pack(pack, 0);
        if (failed) return;
        for (int s = 0; s < pack.num_sequences; ++s) finish(pack, s);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  });
  if (failed) throw std::bad_alloc();
}

}  // namespace polyrank
