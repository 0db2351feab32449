// Tests of the kernels and the forward pass without Python, built and run by `make check-native`
// and `make check-native-arm`. With --paths it prints the paths that this processor runs, one a
// line; the targets then run it once for each, named in POLYRANK_ISA.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "model.h"

using namespace polyrank;

namespace {

int num_failed = 0;

void check(bool holds, const char* claim, double seen = 0) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s (%g)\n", claim, seen);
  ++num_failed;
}

template <typename T>
class Aligned {
 public:
  explicit Aligned(size_t count) { buffer_.reserve(count * sizeof(T) + 64); std::memset(data(), 0, count * sizeof(T)); }
  T* data() const { return buffer_.as<T>(); }
  T& operator[](size_t i) const { return data()[i]; }

 private:
  Buffer buffer_;
};

std::mt19937 generator(7);

std::vector<float> normals(size_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

void test_cpu_features() {
  const CpuFeatures& cpu = cpu_features();
  check(&cpu == &cpu_features(), "features are found out once");
  check(!cpu.avx_vnni || cpu.avx2, "AVX-VNNI comes with AVX2");
  check(!cpu.avx512 || cpu.avx2, "AVX-512 comes with AVX2");
  check(!cpu.avx512_vnni || cpu.avx512, "AVX-512 VNNI comes with AVX-512");
  check(!cpu.amx_int8 || cpu.avx512, "AMX comes with AVX-512");
  check(!cpu.quick_bf16 || cpu.avx512_bf16, "quick bfloat16 products are bfloat16 products");
#if defined(__x86_64__) || defined(_M_X64)
  check(!cpu.neon_dotprod && !cpu.neon_i8mm && !cpu.neon_bf16, "x86-64 has no NEON");
#else
  check(!cpu.avx2 && !cpu.avx512 && !cpu.amx_int8, "only x86-64 has AVX and AMX");
#endif
}

// The extremes -127 and 127 throughout would saturate 16-bit sums of pairs.
void test_linear_s8(const Kernels& k, int rows, int n, int depth, bool extreme) {
  const size_t ld = padded_k(depth);
  std::vector<float> x = normals(static_cast<size_t>(rows) * depth);
  std::vector<int8_t> weights(static_cast<size_t>(n) * depth);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = extreme ? 127 : static_cast<int8_t>(generator() % 255 - 127);
  }
  if (extreme) std::fill(x.begin(), x.end(), 1.0f);
  std::vector<float> multipliers(depth, 1.0f);
  Aligned<int8_t> q((rows + 64) * ld * k.step_bytes);
  std::vector<float> scales(rows + 64);
  k.quantize(x.data(), depth, rows, depth, multipliers.data(), q.data(), scales.data());

  Aligned<int8_t> packed(panels_bytes(n, depth));
  const size_t padded_n = (static_cast<size_t>(n) + 63) / 64 * 64;
  std::vector<int32_t> corrections(padded_n);
  std::vector<float> column_scales(padded_n, 0.01f), bias(padded_n, 0.5f);
  pack_panels(weights.data(), n, depth, packed.data());
  offset_corrections(packed.data(), n, depth, corrections.data());
  std::vector<float> residual = normals(static_cast<size_t>(rows) * n), found(residual.size());
  k.linear_s8(q.data(), scales.data(), rows,
              {n, depth, packed.data(), column_scales.data(), bias.data(), corrections.data()},
              {found.data(), static_cast<size_t>(n), false, Activation::kIdentity, residual.data(),
               static_cast<size_t>(n)});
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    float most = 0;
    for (int d = 0; d < depth; ++d) most = std::max(most, std::fabs(x[i * depth + d]));
    check(std::fabs(scales[i] - most / 127) <= 1e-6f * most, "a row's scale is its maximum / 127");
    for (int j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int d = 0; d < depth; ++d) {
        sum += static_cast<int64_t>(std::nearbyint(x[i * depth + d] * (127.0f / most))) *
               weights[j * depth + d];
      }
      double wanted = sum * (0.01 * scales[i]) + 0.5 + residual[i * n + j];
      worst = std::max(worst, std::fabs(wanted - found[i * n + j]) / (1 + std::fabs(wanted)));
    }
  }
  check(worst < 1e-5, "int8 products equal whole-number sums", worst);
}

// Products with 4-bit blocks are the very sums of the steps, each block scaled: the extremes 15 and
// -127 would saturate 16-bit sums if one product more met in them.
void test_linear_s4(const Kernels& k, int rows, int n, int depth, bool extreme) {
  const size_t num_blocks = depth / kBlockInputs, ld = padded_k(depth);
  std::vector<float> x = normals(static_cast<size_t>(rows) * depth), bias = normals(n),
                     residual = normals(static_cast<size_t>(rows) * n), found(residual.size());
  if (extreme) std::fill(x.begin(), x.end(), -3.0f);
  std::vector<uint8_t> packed(static_cast<size_t>(n) * depth / 2);
  std::vector<uint16_t> halves(n * num_blocks);
  for (uint8_t& byte : packed) byte = extreme ? 0xff * (generator() % 2) : generator() % 256;
  for (uint16_t& half : halves) half = static_cast<uint16_t>(0x2000 + generator() % 0x0800);
  Aligned<uint8_t> weights(panels_bytes(n, depth));
  Aligned<float> scales(n * num_blocks);
  for (int first : {0, n / 2}) {  // in two parts, as query, key and value come
    pack_blocks(&packed[first * num_blocks * 16], &halves[first * num_blocks], n / 2, depth, first,
                weights.data(), scales.data());
  }
  Aligned<int8_t> q((rows + 64) * ld);
  std::vector<RowBlock> blocks(rows * num_blocks);
  k.quantize_blocks(x.data(), depth, rows, depth, q.data(), blocks.data());
  k.linear_s4(q.data(), blocks.data(), rows, {n, depth, weights.data(), scales.data(), bias.data()},
              {found.data(), static_cast<size_t>(n), false, Activation::kIdentity, residual.data(),
               static_cast<size_t>(n)});
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < n; ++j) {
      double wanted = bias[j] + residual[i * n + j], size = 1;
      for (size_t b = 0; b < num_blocks; ++b) {
        float most = 0;
        const float* in = &x[i * depth + b * kBlockInputs];
        for (int d = 0; d < kBlockInputs; ++d) most = std::max(most, std::fabs(in[d]));
        int64_t sum = 0;
        for (int d = 0; d < kBlockInputs; ++d) {
          const uint8_t byte = packed[(j * num_blocks + b) * 16 + d % 16];
          sum += static_cast<int64_t>(std::nearbyint(in[d] * (127.0f / most))) *
                 ((d < 16 ? byte & 15 : byte >> 4) - 8);
        }
        const double scale = float16_value(halves[j * num_blocks + b]) * (most / 127.0);
        wanted += static_cast<double>(sum) * scale;
        size += std::fabs(static_cast<double>(sum) * scale);
      }
      worst = std::max(worst, std::fabs(wanted - found[i * n + j]) / size);
    }
  }
  check(worst < 1e-6, "products with 4-bit blocks equal whole-number sums", worst);
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu: return std::max(x, 0.0);
    case Activation::kSilu: return x / (1 + std::exp(-x));
    case Activation::kTanh: return std::tanh(x);
    case Activation::kSigmoid: return 1 / (1 + std::exp(-x));
    default: return x;
  }
}

void test_linear_f32(const Kernels& k, int rows, int n, int depth, Activation activation) {
  std::vector<float> x = normals(static_cast<size_t>(rows) * depth),
                     weights = normals(static_cast<size_t>(n) * depth, 0.3f),
                     bias = normals(n + 64), found(static_cast<size_t>(rows) * n);
  Aligned<float> packed(k.packed_f32_bytes(n, depth) / 4);
  k.pack_f32(weights.data(), n, depth, packed.data());
  k.linear_f32(x.data(), depth, rows, {n, depth, packed.data(), bias.data()},
               {found.data(), static_cast<size_t>(n), false, activation, nullptr, 0});
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = bias[j];
      for (int d = 0; d < depth; ++d) {
        sum += static_cast<double>(x[i * depth + d]) * weights[j * depth + d];
      }
      worst = std::max(worst, std::fabs(activated(activation, sum) - found[i * n + j]));
    }
  }
  check(worst < 1e-4, "float32 products", worst);
}

float rounded_to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Products with bfloat16 weights are float32 sums of exact products. All paths but two, whose
// instructions join more products, add them in one order, and so give the same bits.
void test_linear_bf16(const Kernels& k, int rows, int n, int depth, Activation activation) {
  std::vector<float> x = normals(static_cast<size_t>(rows) * depth),
                     weights = normals(static_cast<size_t>(n) * depth, 0.3f), bias = normals(n),
                     residual = normals(static_cast<size_t>(rows) * n), found(residual.size());
  Aligned<uint16_t> packed(panels_bf16_bytes(n, depth) / 2);
  for (int first : {0, n / 2}) {  // in two parts, as query, key and value come
    pack_bf16(&weights[static_cast<size_t>(first) * depth], n / 2, depth, first, packed.data());
  }
  Aligned<float> in((rows + 64) * depth);
  k.round_rows(x.data(), depth, rows, depth, in.data());
  k.linear_bf16(in.data(), rows, {n, depth, packed.data(), bias.data()},
                {found.data(), static_cast<size_t>(n), false, activation, residual.data(),
                 static_cast<size_t>(n)});
  const bool is_in_order = std::strcmp(k.name, "amx") != 0 && std::strcmp(k.name, "neoni8mm") != 0;
  double worst = 0;
  bool is_same = true;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < n; ++j) {
      float ordered = 0;
      for (int d = 0; d < depth; ++d) {
        const int place = d ^ 1;  // the second of each pair first
        ordered += rounded_to_bf16(x[i * depth + place]) *
                   rounded_to_bf16(weights[static_cast<size_t>(j) * depth + place]);
      }
      is_same = is_same && ordered + bias[j] + residual[static_cast<size_t>(i) * n + j] ==
                               found[static_cast<size_t>(i) * n + j];
      double sum = bias[j];
      for (int d = 0; d < depth; ++d) {
        sum += static_cast<double>(rounded_to_bf16(x[i * depth + d])) *
               rounded_to_bf16(weights[static_cast<size_t>(j) * depth + d]);
      }
      const double wanted = activated(activation, sum) + residual[static_cast<size_t>(i) * n + j];
      const double error = std::fabs(wanted - found[static_cast<size_t>(i) * n + j]);
      worst = std::max(worst, error / (1 + std::fabs(sum)));
    }
  }
  check(worst < 1e-4, "bfloat16 products", worst);
  check(is_same || !is_in_order || activation != Activation::kIdentity,
        "bfloat16 products have the same bits on every path");
}

void test_attention(const Kernels& k, int seq_len, int head_size) {
  const int heads = 2, hidden = heads * head_size;
  std::vector<float> qkv = normals(static_cast<size_t>(seq_len) * 3 * hidden);
  std::vector<uint16_t> narrow(qkv.size());
  for (size_t i = 0; i < qkv.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &qkv[i], 4);
    narrow[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    if (k.is_qkv_bf16) {
      bits = static_cast<uint32_t>(narrow[i]) << 16;
      std::memcpy(&qkv[i], &bits, 4);
    }
  }
  Aligned<char> scratch(k.attention_scratch(seq_len, head_size));
  std::vector<float> found(static_cast<size_t>(seq_len) * hidden);
  const int middle = seq_len / 2;
  for (int head = 0; head < heads; ++head) {
    AttentionCall call;
    call.qkv = k.is_qkv_bf16 ? static_cast<const void*>(narrow.data()) : qkv.data();
    call.ld = static_cast<size_t>(3) * hidden;
    call.seq_len = seq_len;
    call.head_size = head_size;
    call.query_at = static_cast<size_t>(head) * head_size;
    call.key_at = call.query_at + hidden;
    call.value_at = call.key_at + hidden;
    call.context = found.data() + call.query_at;
    call.ld_context = hidden;
    call.scratch = scratch.data();
    // in two parts, as a team of threads shares it out
    call.query_begin = 0;
    call.query_end = middle;
    k.attention(call);
    call.query_begin = middle;
    call.query_end = seq_len;
    k.attention(call);
  }
  double worst = 0;
  for (int head = 0; head < heads; ++head) {
    for (int i = 0; i < seq_len; ++i) {
      std::vector<double> weights(seq_len);
      double most = -1e30, total = 0;
      const float* row = qkv.data() + static_cast<size_t>(i) * 3 * hidden + head * head_size;
      for (int j = 0; j < seq_len; ++j) {
        const float* key = qkv.data() + static_cast<size_t>(j) * 3 * hidden + hidden + head * head_size;
        for (int d = 0; d < head_size; ++d) weights[j] += row[d] * key[d];
        weights[j] /= std::sqrt(static_cast<double>(head_size));
        most = std::max(most, weights[j]);
      }
      for (double& weight : weights) total += weight = std::exp(weight - most);
      for (int d = 0; d < head_size; ++d) {
        double sum = 0;
        for (int j = 0; j < seq_len; ++j) {
          sum += weights[j] * qkv[static_cast<size_t>(j) * 3 * hidden + 2 * hidden + head * head_size + d];
        }
        worst = std::max(worst, std::fabs(sum / total - found[static_cast<size_t>(i) * hidden + head * head_size + d]));
      }
    }
  }
  check(worst < (k.is_qkv_bf16 ? 2e-2 : 1e-5), "attention", worst);
}

void test_layer_norm(const Kernels& k) {
  const int rows = 3, n = 96;
  std::vector<float> x = normals(rows * n, 5), gamma = normals(n), beta = normals(n), y = x;
  k.layer_norm(y.data(), n, rows, n, gamma.data(), beta.data(), 1e-5f);
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    double mean = 0, variance = 0;
    for (int j = 0; j < n; ++j) mean += x[i * n + j] / static_cast<double>(n);
    for (int j = 0; j < n; ++j) variance += std::pow(x[i * n + j] - mean, 2) / n;
    for (int j = 0; j < n; ++j) {
      double wanted = (x[i * n + j] - mean) / std::sqrt(variance + 1e-5) * gamma[j] + beta[j];
      worst = std::max(worst, std::fabs(wanted - y[i * n + j]));
    }
  }
  check(worst < 1e-5, "layer normalisation", worst);
}

// NaN must come out as NaN, never as a number.
void test_nan(const Kernels& k) {
  const int n = 32, depth = 64;
  std::vector<float> x(depth, 1.0f), weights(n * depth, 0.1f), bias(n + 64), out(n);
  x[17] = NAN;
  Aligned<float> packed(k.packed_f32_bytes(n, depth) / 4);
  k.pack_f32(weights.data(), n, depth, packed.data());
  for (Activation kind : {Activation::kIdentity, Activation::kGelu, Activation::kGeluTanh,
                          Activation::kRelu, Activation::kSilu, Activation::kTanh, Activation::kSigmoid}) {
    k.linear_f32(x.data(), depth, 1, {n, depth, packed.data(), bias.data()},
                 {out.data(), static_cast<size_t>(n), false, kind, nullptr, 0});
    check(std::isnan(out[0]) && std::isnan(out[n - 1]), "NaN stays NaN through an activation",
          static_cast<double>(kind));
  }
  Aligned<int8_t> q(64 * padded_k(depth));
  std::vector<float> scales(64);
  k.quantize(x.data(), depth, 1, depth, nullptr, q.data(), scales.data());
  check(std::isnan(scales[0]), "a row with NaN gets NaN as its scale");
  if (k.quantize_blocks == nullptr) return;
  for (float value : {NAN, -NAN, INFINITY, -INFINITY}) {
    RowBlock blocks[2];
    x[17] = value;
    k.quantize_blocks(x.data(), depth, 1, depth, q.data(), blocks);
    check(std::isnan(blocks[0].scale) && !std::isnan(blocks[1].scale),
          "a block with NaN or infinity gets NaN as its scale");
  }
}

float exact_half(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                   : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return h & 0x8000 ? -size : size;
}

// Rows of a body without layers, whose words come from one table.
std::vector<float> embedded(const char* name, const Table& words, int num_rows) {
  constexpr int width = 64;
  const std::vector<float> other(width, 0.25f), gamma(width, 1), beta(width, 0);
  Body body({width, 0, 4, 96, 1e-5f, Activation::kGelu}, choose_kernels(name));
  const Table rest{other.data(), nullptr, TableType::kFloat32, 1};
  body.set_tables(words, rest, rest);
  body.set_embedding_norm(gamma.data(), beta.data());
  std::vector<int32_t> ids(num_rows), places(num_rows, 0), bounds{0, num_rows};
  for (int i = 0; i < num_rows; ++i) ids[i] = i;
  std::vector<float> rows(static_cast<size_t>(num_rows) * width);
  body.run({ids.data(), nullptr, places.data(), bounds.data(), 1, ids.size()}, Pooling::kTokens, 1, rows.data());
  return rows;
}

// Tables of each type give the rows of the float32 table that they stand for, bit for bit.
void test_tables(const char* name) {
  constexpr int width = 64, num_rows = 62 * 16;
  std::vector<uint16_t> halves;  // every finite one, of both signs
  std::vector<float> exact;
  for (int h = 0; h < 1 << 16; ++h) {
    if ((h >> 10 & 31) == 31) continue;  // infinity and NaN
    halves.push_back(static_cast<uint16_t>(h));
    exact.push_back(exact_half(halves.back()));
  }
  check(halves.size() == num_rows * width, "halves of whole rows", static_cast<double>(halves.size()));
  check(embedded(name, {halves.data(), nullptr, TableType::kFloat16, num_rows}, num_rows) ==
            embedded(name, {exact.data(), nullptr, TableType::kFloat32, num_rows}, num_rows),
        "float16 tables are exact");

  std::vector<uint8_t> bytes(num_rows * width / 2);
  std::vector<uint16_t> scales(num_rows * width / kInt4Block);
  for (size_t b = 0; b < scales.size(); ++b) {
    const size_t taken = generator() % halves.size();
    scales[b] = halves[taken];
    for (int j = 0; j < kInt4Block / 2; ++j) {
      const int low = static_cast<int>(generator() % 16), high = static_cast<int>(generator() % 16);
      bytes[b * kInt4Block / 2 + j] = static_cast<uint8_t>(low | high << 4);
      exact[b * kInt4Block + j] = static_cast<float>(low - 8) * exact_half(halves[taken]);
      exact[b * kInt4Block + kInt4Block / 2 + j] = static_cast<float>(high - 8) * exact_half(halves[taken]);
    }
  }
  check(embedded(name, {bytes.data(), scales.data(), TableType::kInt4, num_rows}, num_rows) ==
            embedded(name, {exact.data(), nullptr, TableType::kFloat32, num_rows}, num_rows),
        "int4 tables are exact");
}

// `run` itself refuses every number by which it would read outside of something.
void test_checks(const char* name) {
  constexpr int width = 64;
  const std::vector<float> values(5 * width, 0.25f), gamma(width, 1);
  Body body({width, 0, 4, 96, 1e-5f, Activation::kGelu}, choose_kernels(name));
  struct Numbers {
    std::vector<int32_t> ids{4, 0, 3}, places{0, 1, 2}, types{1, 0, 1}, bounds{0, 2, 3};
  };
  std::vector<float> out(3 * width);
  const auto run = [&](const Numbers& numbers) {
    const Batch batch{numbers.ids.data(), numbers.types.data(), numbers.places.data(),
                      numbers.bounds.data(), static_cast<int>(numbers.bounds.size()) - 1,
                      numbers.ids.size()};
    body.run(batch, Pooling::kTokens, 1, out.data());
  };
  const auto is_refused = [&](const Numbers& numbers) {
    try {
      run(numbers);
    } catch (const std::out_of_range&) {
      return true;
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  check(is_refused({}), "a body without tables does not run");
  body.set_tables({values.data(), nullptr, TableType::kFloat32, 5},
                  {values.data(), nullptr, TableType::kFloat32, 3},
                  {values.data(), nullptr, TableType::kFloat32, 2});
  check(is_refused({}), "a body without norms does not run");
  body.set_embedding_norm(gamma.data(), values.data());
  run({});
  constexpr int32_t least = std::numeric_limits<int32_t>::min(),
                    most = std::numeric_limits<int32_t>::max();
  for (int32_t outside : {-1, -100, 5, least, most}) {
    for (size_t token : {0, 1, 2}) {
      Numbers ids, places, types;
      ids.ids[token] = places.places[token] = types.types[token] = outside;
      check(is_refused(ids) && is_refused(places) && is_refused(types), "rows outside a table",
            outside);
    }
  }
  for (std::vector<int32_t> bounds : std::vector<std::vector<int32_t>>{
           {0, 2}, {0, 2, 4}, {1, 2, 3}, {0, 0, 3}, {0, 3, 3}, {0, 4, 3}, {0, -1, 3}, {-1, 2, 3},
           {0, 2, most}, {0, least, 3}, {0}}) {
    Numbers numbers;
    numbers.bounds = bounds;
    check(is_refused(numbers), "bounds that do not ascend to the end", bounds.back());
  }
}

// Rows of all four tiers in any order, the last group of 64 not full.
void test_mixed_table(const char* name) {
  constexpr int width = 64, num_rows = 64 * 5 + 37, num_tiers = MixedRows::kTiers;
  constexpr size_t plane_bytes = (num_rows + 63) / 64 * 8;
  const int sizes[] = {4, 8, 32};  // values of a codeword; the last by the loop for any size
  const auto half = [] { return static_cast<uint16_t>(generator() % (30 << 10) | generator() % 2 << 15); };
  std::vector<uint8_t> planes(2 * plane_bytes), steps, codes[3];
  std::vector<uint16_t> scales, coarse(MixedRows::kCodewords * width), codebooks[3];
  for (uint16_t& value : coarse) value = half();
  for (int t = 0; t < 3; ++t) {
    codebooks[t].resize(static_cast<size_t>(MixedRows::kCodewords) * width);
    for (uint16_t& value : codebooks[t]) value = half();
  }
  std::vector<float> exact;
  size_t counts[num_tiers] = {};
  for (int row = 0; row < num_rows; ++row) {
    const int tier = row < 70 ? 3 : static_cast<int>(generator() % num_tiers);
    ++counts[tier];
    planes[row / 8] |= static_cast<uint8_t>((tier & 1) << row % 8);
    planes[plane_bytes + row / 8] |= static_cast<uint8_t>((tier >> 1) << row % 8);
    if (tier == 0) {
      for (int block = 0; block < width / kInt4Block; ++block) {
        float values[kInt4Block];
        scales.push_back(half());
        for (int j = 0; j < kInt4Block / 2; ++j) {
          steps.push_back(static_cast<uint8_t>(generator() % 256));
          values[j] = static_cast<float>((steps.back() & 15) - 8) * exact_half(scales.back());
          values[j + kInt4Block / 2] =
              static_cast<float>((steps.back() >> 4) - 8) * exact_half(scales.back());
        }
        exact.insert(exact.end(), values, values + kInt4Block);
      }
      continue;
    }
    const int size = sizes[tier - 1], parts = width / size;
    const size_t first = generator() % 256;
    codes[tier - 1].push_back(static_cast<uint8_t>(first));
    for (int part = 0; part < parts; ++part) {
      const size_t code = generator() % 256;
      codes[tier - 1].push_back(static_cast<uint8_t>(code));
      for (int j = 0; j < size; ++j) {
        exact.push_back(exact_half(coarse[first * width + part * size + j]) +
                        exact_half(codebooks[tier - 1][(part * 256 + code) * size + j]));
      }
    }
  }
  CodedRows coded[3];
  for (int t = 0; t < 3; ++t) {
    coded[t] = {codes[t].data(), codebooks[t].data(), counts[t + 1], width / sizes[t]};
  }
  const MixedRows rows({steps.data(), scales.data(), TableType::kInt4, counts[0]}, planes.data(), plane_bytes,
                       num_rows, coarse.data(), coded);
  for (int t = 0; t < num_tiers; ++t) check(rows.num_rows(t) == counts[t], "rows of a tier are counted", t);
  check(embedded(name, {&rows, nullptr, TableType::kMixed, num_rows}, num_rows) ==
            embedded(name, {exact.data(), nullptr, TableType::kFloat32, num_rows}, num_rows),
        "mixed tables are exact");
  // added to what is there, as segments would be
  std::vector<float> found(width, 0.5f), wanted(width, 0.5f);
  for (int row : {0, 70, num_rows - 1}) {
    rows.add(static_cast<size_t>(row), width, false, found.data());
    for (int j = 0; j < width; ++j) wanted[j] += exact[static_cast<size_t>(row) * width + j];
  }
  check(found == wanted, "rows of mixed tables are added");
}

// Gives a body a linear layer of random 4-bit blocks.
void set_blocks(Body& body, int layer, Linear which, int parts, int n, int depth,
                const float* const* biases) {
  std::vector<std::vector<uint8_t>> packed(parts);
  std::vector<std::vector<uint16_t>> scales(parts);
  const uint8_t* packed_parts[3];
  const uint16_t* scale_parts[3];
  for (int p = 0; p < parts; ++p) {
    packed[p].resize(static_cast<size_t>(n) * depth / 2);
    scales[p].resize(static_cast<size_t>(n) * depth / kBlockInputs);
    for (uint8_t& byte : packed[p]) byte = static_cast<uint8_t>(generator() % 256);
    for (uint16_t& half : scales[p]) half = static_cast<uint16_t>(0x2400 + generator() % 0x0800);
    packed_parts[p] = packed[p].data();
    scale_parts[p] = scales[p].data();
  }
  body.set_linear_blocks(layer, which, packed_parts, scale_parts, biases, parts);
}

// The same rows whatever the mates and threads, bit for bit.
void test_body(const char* name, Weights type) {
  const Kernels* k = choose_kernels(name);
  if (type == Weights::kFloat32 && k->exact) k = k->exact;
  const Shape shape{64, 2, 4, 96, 1e-5f, Activation::kGelu};
  const int vocabulary = 50, positions = 200;
  std::vector<float> words = normals(vocabulary * 64), places = normals(positions * 64),
                     types = normals(64), gamma = normals(64), beta = normals(64);
  Body body(shape, k);
  body.set_tables({words.data(), nullptr, TableType::kFloat32, vocabulary},
                  {places.data(), nullptr, TableType::kFloat32, positions},
                  {types.data(), nullptr, TableType::kFloat32, 1});
  body.set_embedding_norm(gamma.data(), beta.data());
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    for (Linear which : {kQkv, kOut, kInner, kOuter}) {
      int parts = which == kQkv ? 3 : 1, n = which == kInner ? 96 : 64, depth = which == kOuter ? 96 : 64;
      std::vector<std::vector<float>> weights, biases;
      std::vector<const float*> weight_parts, bias_parts;
      for (int p = 0; p < parts; ++p) {
        weights.push_back(normals(static_cast<size_t>(n) * depth, 0.15f));
        biases.push_back(normals(n, 0.1f));
      }
      for (int p = 0; p < parts; ++p) {
        weight_parts.push_back(weights[p].data());
        bias_parts.push_back(biases[p].data());
      }
      if (type == Weights::kBlocks) {
        set_blocks(body, layer, which, parts, n, depth, bias_parts.data());
        continue;
      }
      body.set_linear(layer, which, weight_parts.data(), bias_parts.data(), parts, type, nullptr, 2);
    }
    body.set_norm(layer, 0, gamma.data(), beta.data());
    body.set_norm(layer, 1, gamma.data(), beta.data());
  }
  std::vector<int32_t> lengths{1, 7, 33, 16, 150, 64, 15, 31, 2, 100}, ids, places_at, bounds{0};
  for (int32_t length : lengths) {
    for (int32_t i = 0; i < length; ++i) {
      ids.push_back(static_cast<int32_t>(generator() % vocabulary));
      places_at.push_back(i);
    }
    bounds.push_back(static_cast<int32_t>(ids.size()));
  }
  std::vector<float> together(ids.size() * 64), again(together.size());
  Batch batch{ids.data(), nullptr, places_at.data(), bounds.data(), static_cast<int>(lengths.size()),
              ids.size()};
  body.run(batch, Pooling::kTokens, 1, together.data());
  for (int threads : {2, 3, 5}) {
    body.run(batch, Pooling::kTokens, threads, again.data());
    check(std::memcmp(together.data(), again.data(), together.size() * 4) == 0,
          "threads change no bit", threads);
  }
  for (size_t s = 0; s < lengths.size(); ++s) {
    int32_t alone_bounds[2] = {0, lengths[s]};
    Batch alone{ids.data() + bounds[s], nullptr, places_at.data() + bounds[s], alone_bounds, 1,
                static_cast<size_t>(lengths[s])};
    for (int threads : {1, 4}) {
      body.run(alone, Pooling::kTokens, threads, again.data());
      check(std::memcmp(together.data() + static_cast<size_t>(bounds[s]) * 64, again.data(),
                        static_cast<size_t>(lengths[s]) * 256) == 0,
            "batch mates change no bit", lengths[s]);
    }
  }
  std::vector<float> cls(lengths.size() * 64), last(cls.size()), mean(cls.size());
  body.run(batch, Pooling::kCls, 2, cls.data());
  body.run(batch, Pooling::kLast, 2, last.data());
  body.run(batch, Pooling::kMean, 2, mean.data());
  for (size_t s = 0; s < lengths.size(); ++s) {
    check(std::memcmp(&cls[s * 64], &together[static_cast<size_t>(bounds[s]) * 64], 256) == 0, "CLS rows");
    check(std::memcmp(&last[s * 64], &together[static_cast<size_t>(bounds[s + 1] - 1) * 64], 256) == 0,
          "last rows");
    double sum = 0;
    for (int32_t i = bounds[s]; i < bounds[s + 1]; ++i) sum += together[static_cast<size_t>(i) * 64 + 5];
    check(std::fabs(sum / lengths[s] - mean[s * 64 + 5]) < 1e-5, "mean rows");
  }
}

// Widths that end within a vector, counts that end within a tile.
void test_late_interaction(const Kernels& k) {
  std::mt19937 generator(11);
  std::normal_distribution<float> normal;
  for (int width : {1, 7, 32, 50, 96, 384}) {
    const int num_rows = 23, num_directions = width < 8 ? 1 : 6;
    std::vector<float> rows(num_rows * width), center(width), directions(num_directions * width);
    for (auto* values : {&rows, &center, &directions}) {
      for (float& value : *values) value = normal(generator);
    }
    for (int i = 0; i < num_directions; ++i) {  // Gram-Schmidt
      float* row = &directions[i * width];
      for (int j = 0; j < i; ++j) {
        double along = 0;
        for (int d = 0; d < width; ++d) along += row[d] * directions[j * width + d];
        for (int d = 0; d < width; ++d) row[d] -= static_cast<float>(along) * directions[j * width + d];
      }
      double square = 0;
      for (int d = 0; d < width; ++d) square += row[d] * row[d];
      for (int d = 0; d < width; ++d) row[d] /= static_cast<float>(std::sqrt(square));
    }
    for (int d = 0; d < width; ++d) rows[3 * width + d] = center[d];  // nothing is left of it
    std::vector<float> found(rows.size()), again(rows.size());
    std::vector<float> along(kMostCleanRows * num_directions);
    k.clean({rows.data(), num_rows, width, center.data(), directions.data(), num_directions,
             along.data(), found.data()});
    for (int i = 0; i < num_rows; ++i) {
      std::vector<double> wanted(width);
      for (int d = 0; d < width; ++d) wanted[d] = rows[i * width + d] - center[d];
      for (int j = 0; j < num_directions; ++j) {
        double part = 0;
        for (int d = 0; d < width; ++d) part += wanted[d] * directions[j * width + d];
        for (int d = 0; d < width; ++d) wanted[d] -= part * directions[j * width + d];
      }
      double square = 0;
      for (double value : wanted) square += value * value;
      for (int d = 0; d < width; ++d) {
        if (width == 1) continue;  // its one direction leaves rounding errors alone
        double expected = i == 3 ? 0 : wanted[d] / std::sqrt(square);
        check(std::fabs(found[i * width + d] - expected) < 2e-5, "clean rows", width);
      }
      k.clean({&rows[i * width], 1, width, center.data(), directions.data(), num_directions,
               along.data(), &again[i * width]});
    }
    check(std::memcmp(found.data(), again.data(), found.size() * 4) == 0,
          "rows beside it change no bit of a clean row", width);
    for (int num_query : {1, 3, 4, 9}) {
      for (int num_document : {1, 5, 8, 14}) {
        std::vector<float> by_query(num_query), by_document(num_document), alone(1), other(1);
        const float* document = found.data() + 9 * width;
        k.match({found.data(), num_query, document, num_document, width, by_query.data(),
                 by_document.data()});
        std::vector<float> best(num_query, -2), of_document(num_document, -2);
        for (int i = 0; i < num_query; ++i) {
          for (int j = 0; j < num_document; ++j) {
            // one row with one other gives the bits that it gives in any tile
            k.match({&found[i * width], 1, document + j * width, 1, width, alone.data(), other.data()});
            double sum = 0;
            for (int d = 0; d < width; ++d) sum += found[i * width + d] * document[j * width + d];
            check(std::fabs(sum - alone[0]) < 1e-5 && alone[0] == other[0], "products", width);
            best[i] = std::max(best[i], alone[0]);
            of_document[j] = std::max(of_document[j], alone[0]);
          }
        }
        check(best == by_query && of_document == by_document, "best products", width);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--paths") == 0) {
    for (const char* const* name = usable_kernels(); *name; ++name) std::puts(*name);
    return 0;
  }
  const Kernels* kernels = choose_kernels(nullptr);
  if (kernels == nullptr) {
    std::fputs("POLYRANK_ISA names no path that runs here\n", stderr);
    return 2;
  }
  test_cpu_features();
  const Kernels& k = *kernels;
  k.begin();
  for (int rows : {1, 5, 6, 16, 17, 33, 64}) {
    test_linear_s8(k, rows, 96, 96, false);
    test_linear_f32(k, rows, 96, 64, Activation::kIdentity);
    test_linear_bf16(k, rows, 96, 96, Activation::kIdentity);
    if (k.exact) test_linear_bf16(k, rows, 64, 32, Activation::kGelu);
  }
  test_linear_bf16(k, 19, 160, 1536, Activation::kGelu);
  test_linear_s8(k, 40, 128, 1536, true);
  test_linear_s8(k, 19, 160, 384, false);
  if (k.linear_s4 != nullptr) {
    for (int rows : {1, 2, 3, 5, 6, 7, 33, 100}) test_linear_s4(k, rows, 96, 96, false);
    test_linear_s4(k, 40, 128, 1536, true);
    test_linear_s4(k, 19, 160, 32, false);
  }
  for (Activation kind : {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu, Activation::kSilu,
                          Activation::kTanh, Activation::kSigmoid}) {
    test_linear_f32(k, 7, 32, 32, kind);
  }
  for (int seq_len : {1, 2, 15, 16, 31, 33, 64, 130}) {
    for (int head_size : {16, 32, 48, 64}) {
      test_attention(k, seq_len, head_size);
      if (k.exact) test_attention(*k.exact, seq_len, head_size);
    }
  }
  test_layer_norm(k);
  test_late_interaction(k);
  test_nan(k);
  k.end();
  test_body(k.name, Weights::kInt8);
  test_body(k.name, Weights::kFloat32);
  test_body(k.name, Weights::kBfloat16);
  if (k.linear_s4 != nullptr) test_body(k.name, Weights::kBlocks);
  test_tables(k.name);
  test_mixed_table(k.name);
  test_checks(k.name);
  std::printf("%s: %s\n", k.name, num_failed ? "FAILED" : "passed");
  return num_failed ? 1 : 0;
}
