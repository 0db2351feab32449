// Time of each part of a layer on one thread, with the rate of its products: where the native
// encoder spends its time. Build and run with `make bench-kernels`.
//
//   bench_kernels [hidden inner heads seq_len tokens layers]   (layers 0: the parts alone)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "kernels.h"
#include "model.h"

using namespace polyrank;

namespace {

double thread_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
#endif
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best of many rounds of 2 ms or one run, whichever is longer, within half a second. Processor time
// of the thread, so that a machine that others use too gives nearly the same figures.
double seconds(const std::function<void()>& work) {
  work();
  const double begin = wall_seconds();
  double best = 1e9;
  for (int round = 0; round < 7 || (round < 100 && wall_seconds() - begin < 0.5); ++round) {
    int count = 0;
    const double start = thread_seconds();
    double taken;
    do {
      work();
      ++count;
      taken = thread_seconds() - start;
    } while (taken < 0.002);
    best = std::min(best, taken / count);
  }
  return best;
}

// By the clock on the wall, for several threads: best of seven runs.
double wall_time(const std::function<void()>& work) {
  work();
  double best = 1e9;
  for (int round = 0; round < 7; ++round) {
    const double start = wall_seconds();
    work();
    best = std::min(best, wall_seconds() - start);
  }
  return best;
}

double total = 0;

void show(const char* part, double time, double operations, int tokens) {
  total += time;
  std::printf("%-22s %8.2f us a token", part, time / tokens * 1e6);
  if (operations > 0) std::printf("  %7.0f GOPS", operations / time / 1e9);
  std::printf("\n");
}

template <typename T>
T* memory(size_t count) {
  T* p = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64));
  std::memset(p, 0, count * sizeof(T));
  return p;
}

// One head after another of every sequence.
double attention_time(const Kernels* k, int hidden, int heads, int seq_len, int tokens, float* qkv,
                      float* context) {
  const size_t element = k->is_qkv_bf16 ? 2 : 4, depth = static_cast<size_t>(hidden / heads);
  char* scratch = memory<char>(k->attention_scratch(seq_len, hidden / heads));
  const int sequences = std::max(1, tokens / seq_len);
  const double time = seconds([&] {
    for (int s = 0; s < sequences; ++s) {
      for (int h = 0; h < heads; ++h) {
        AttentionCall call{
            reinterpret_cast<char*>(qkv) + static_cast<size_t>(s) * seq_len * 3 * hidden * element,
            static_cast<size_t>(3) * hidden, seq_len, 0, seq_len, hidden / heads, h * depth,
            hidden + h * depth, 2 * hidden + h * depth, context + h * depth,
            static_cast<size_t>(hidden), scratch};
        k->attention(call);
      }
    }
  });
  return time * tokens / (static_cast<double>(sequences) * seq_len);
}

void profile_f32(const Kernels* k, int hidden, int inner, int heads, int seq_len, int tokens,
                 float* x, float* y, float* residual, const float* ones) {
  total = 0;
  std::printf("\nfloat32\n");
  k->begin();
  auto linear = [&](const char* name, int n, int depth, Activation activation, bool add) {
    std::vector<float> raw(static_cast<size_t>(n) * depth, 0.01f), bias(n + 64, 0.1f);
    float* packed = memory<float>(k->packed_f32_bytes(n, depth) / 4);
    k->pack_f32(raw.data(), n, depth, packed);
    const int block = k->row_block;
    show(name, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        k->linear_f32(x + static_cast<size_t>(row) * depth, depth, std::min(block, tokens - row),
                      {n, depth, packed, bias.data()},
                      {y + static_cast<size_t>(row) * n, static_cast<size_t>(n), false, activation,
                       add ? residual + static_cast<size_t>(row) * n : nullptr,
                       static_cast<size_t>(n)});
      }
    }), 2.0 * tokens * n * depth, tokens);
  };
  linear("qkv", 3 * hidden, hidden, Activation::kIdentity, false);
  show("attention", attention_time(k, hidden, heads, seq_len, tokens, y, residual),
       4.0 * tokens * seq_len * hidden, tokens);
  linear("out", hidden, hidden, Activation::kIdentity, true);
  show("layer norm, twice", 2 * seconds([&] {
    k->layer_norm(x, hidden, tokens, hidden, ones, ones, 1e-12f);
  }), 0, tokens);
  linear("inner, no activation", inner, hidden, Activation::kIdentity, false);
  total = 0;
  linear("inner with GELU", inner, hidden, Activation::kGelu, false);
  linear("outer", hidden, inner, Activation::kIdentity, true);
  k->end();
}

// Linear layers with bfloat16 weights, rounding of their inputs included.
void profile_bf16(const Kernels* k, int hidden, int inner, int tokens, const float* x, float* y,
                  const float* residual) {
  total = 0;
  std::printf("\nbfloat16\n");
  const int block = k->row_block;
  char* rounded = memory<char>(static_cast<size_t>(block + 64) * std::max(hidden, inner) * 4);
  k->begin();
  auto linear = [&](const char* name, int n, int depth, Activation activation, bool add) {
    std::vector<float> raw(static_cast<size_t>(n) * depth, 0.01f), bias(n, 0.1f);
    uint16_t* packed = memory<uint16_t>(panels_bf16_bytes(n, depth) / 2);
    pack_bf16(raw.data(), n, depth, 0, packed);
    show(name, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        const int rows = std::min(block, tokens - row);
        k->round_rows(x + static_cast<size_t>(row) * depth, depth, rows, depth, rounded);
        k->linear_bf16(rounded, rows, {n, depth, packed, bias.data()},
                       {y + static_cast<size_t>(row) * n, static_cast<size_t>(n), false, activation,
                        add ? residual + static_cast<size_t>(row) * n : nullptr,
                        static_cast<size_t>(n)});
      }
    }), 2.0 * tokens * n * depth, tokens);
  };
  linear("qkv", 3 * hidden, hidden, Activation::kIdentity, false);
  linear("out", hidden, hidden, Activation::kIdentity, true);
  linear("inner with GELU", inner, hidden, Activation::kGelu, false);
  linear("outer", hidden, inner, Activation::kIdentity, true);
  k->end();
  std::printf("%-22s %8.2f us a token and layer, linear layers alone\n", "all", total / tokens * 1e6);
}

// Linear layers with weights in 4-bit blocks, where the path multiplies them as they are.
void profile_s4(const Kernels* k, int hidden, int inner, int tokens, const float* x, float* y,
                const float* residual) {
  total = 0;
  std::printf("\n4-bit blocks\n");
  const int widest = std::max(3 * hidden, inner), block = k->row_block;
  int8_t* q = memory<int8_t>(static_cast<size_t>(tokens + 64) * padded_k(widest));
  RowBlock* blocks = memory<RowBlock>(static_cast<size_t>(tokens) * widest / kBlockInputs);
  auto linear = [&](const char* name, int n, int depth, Activation activation, bool add) {
    std::mt19937 random(2);
    const size_t num_blocks = depth / kBlockInputs, depth_q = padded_k(depth);
    uint8_t* weights = memory<uint8_t>(panels_bytes(n, depth));
    for (size_t i = 0; i < panels_bytes(n, depth); ++i) weights[i] = random() % 16;
    float* scales = memory<float>(n * num_blocks);
    std::fill(scales, scales + n * num_blocks, 0.01f);
    std::vector<float> bias(n + 64, 0.1f);
    char label[64];
    std::snprintf(label, sizeof label, "quantise for %s", name);
    show(label, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        k->quantize_blocks(x + static_cast<size_t>(row) * depth, depth,
                           std::min(block, tokens - row), depth, q + row * depth_q,
                           blocks + row * num_blocks);
      }
    }), 0, tokens);
    show(name, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        k->linear_s4(q + row * depth_q, blocks + row * num_blocks, std::min(block, tokens - row),
                     {n, depth, weights, scales, bias.data()},
                     {y + static_cast<size_t>(row) * n, static_cast<size_t>(n), false, activation,
                      add ? residual + static_cast<size_t>(row) * n : nullptr,
                      static_cast<size_t>(n)});
      }
    }), 2.0 * tokens * n * depth, tokens);
  };
  linear("qkv", 3 * hidden, hidden, Activation::kIdentity, false);
  linear("out", hidden, hidden, Activation::kIdentity, true);
  linear("inner with GELU", inner, hidden, Activation::kGelu, false);
  linear("outer", hidden, inner, Activation::kIdentity, true);
  std::printf("%-22s %8.2f us a token and layer, linear layers alone\n", "all", total / tokens * 1e6);
}

// Tokens a second of a whole body with random weights on 96 sequences of log-normal length.
void whole(const Kernels* k, int hidden, int inner, int heads, int num_layers, Weights type,
           int num_threads) {
  constexpr int kPieces = 1000, kLongest = 512;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  auto values = [&](size_t count, float scale) {
    std::vector<float> found(count);
    for (float& value : found) value = normal(random) * scale;
    return found;
  };
  const Kernels* table = type == Weights::kFloat32 && k->exact != nullptr ? k->exact : k;
  Body body({hidden, num_layers, heads, inner, 1e-12f, Activation::kGelu}, table);
  std::vector<float> words = values(static_cast<size_t>(kPieces) * hidden, 1),
                     positions = values(static_cast<size_t>(kLongest) * hidden, 0.1f),
                     ones(hidden, 1.0f), zeros(std::max(3 * hidden, inner), 0.0f);
  body.set_tables({words.data(), nullptr, TableType::kFloat32, kPieces},
                  {positions.data(), nullptr, TableType::kFloat32, kLongest},
                  {zeros.data(), nullptr, TableType::kFloat32, 1});
  body.set_embedding_norm(ones.data(), zeros.data());
  for (int layer = 0; layer < num_layers; ++layer) {
    for (int which = 0; which < kNumLinears; ++which) {
      int n = which == kQkv ? 3 * hidden : which == kInner ? inner : hidden,
          depth = which == kOuter ? inner : hidden;
      std::vector<float> weights = values(static_cast<size_t>(n) * depth, 0.02f);
      const float* parts[] = {weights.data()};
      const float* biases[] = {zeros.data()};
      body.set_linear(layer, static_cast<Linear>(which), parts, biases, 1, type, nullptr, 2);
    }
    body.set_norm(layer, 0, ones.data(), zeros.data());
    body.set_norm(layer, 1, ones.data(), zeros.data());
  }
  std::lognormal_distribution<float> lengths(5.0f, 0.7f);
  std::vector<int> sizes(96);
  for (int& size : sizes) size = std::clamp(static_cast<int>(lengths(random)), 8, kLongest);
  std::sort(sizes.begin(), sizes.end());
  std::vector<int32_t> bounds{0}, ids, places;
  for (int size : sizes) {
    for (int i = 0; i < size; ++i) {
      ids.push_back(static_cast<int32_t>(random() % kPieces));
      places.push_back(i);
    }
    bounds.push_back(static_cast<int32_t>(ids.size()));
  }
  std::vector<float> out(sizes.size() * hidden);
  Batch batch{ids.data(), nullptr, places.data(), bounds.data(), static_cast<int>(sizes.size()),
              ids.size()};
  const auto measure = num_threads == 1 ? seconds : wall_time;
  double time = measure([&] { body.run(batch, Pooling::kMean, num_threads, out.data()); });
  std::printf("%-8s %d threads %8.0f tokens/s  %6.1f us a token and thread\n",
              type == Weights::kInt8 ? "int8" : type == Weights::kFloat32 ? "float32" : "bfloat16",
              num_threads, ids.size() / time,
              time * num_threads / ids.size() * 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  int hidden = argc > 1 ? std::atoi(argv[1]) : 384, inner = argc > 2 ? std::atoi(argv[2]) : 1536,
      heads = argc > 3 ? std::atoi(argv[3]) : 12, seq_len = argc > 4 ? std::atoi(argv[4]) : 177,
      tokens = argc > 5 ? std::atoi(argv[5]) : 512;
  const Kernels* k = choose_kernels(nullptr);
  if (k == nullptr) return 1;
  std::printf("%s, hidden %d, inner %d, %d heads, sequences of %d, %d tokens\n", k->name, hidden,
              inner, heads, seq_len, tokens);
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  int widest = std::max(3 * hidden, inner);
  float* x = memory<float>(static_cast<size_t>(tokens) * widest);
  float* y = memory<float>(static_cast<size_t>(tokens) * widest);
  float* residual = memory<float>(static_cast<size_t>(tokens) * widest);
  for (size_t i = 0; i < static_cast<size_t>(tokens) * widest; ++i) x[i] = normal(random);
  char* q = memory<char>(static_cast<size_t>(tokens + 64) * padded_k(widest) * k->step_bytes);
  float* scales = memory<float>(tokens + 64);
  std::vector<float> ones(widest, 1.0f);
  k->begin();
  auto linear = [&](const char* name, int n, int depth, Activation activation, bool bf16, bool add) {
    std::vector<int8_t> raw(static_cast<size_t>(n) * depth);
    for (auto& w : raw) w = static_cast<int8_t>(random() % 255 - 127);
    int8_t* packed = memory<int8_t>(panels_bytes(n, depth));
    std::vector<int32_t> corrections(n + 64);
    pack_panels(raw.data(), n, depth, packed);
    offset_corrections(packed, n, depth, corrections.data());
    std::vector<float> column_scales(n + 64, 1e-3f), bias(n + 64, 0.1f);
    LinearS8 layer{n, depth, packed, column_scales.data(), bias.data(), corrections.data()};
    char label[64];
    std::snprintf(label, sizeof label, "quantise for %s", name);
    int block = k->row_block;
    show(label, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        k->quantize(x + static_cast<size_t>(row) * depth, depth, std::min(block, tokens - row),
                    depth, ones.data(), q + row * padded_k(depth) * k->step_bytes, scales + row);
      }
    }), 0, tokens);
    double time = seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        Output out{bf16 ? static_cast<void*>(reinterpret_cast<uint16_t*>(y) + static_cast<size_t>(row) * n)
                        : static_cast<void*>(y + static_cast<size_t>(row) * n),
                   static_cast<size_t>(n), bf16, activation,
                   add ? residual + static_cast<size_t>(row) * n : nullptr, static_cast<size_t>(n)};
        k->linear_s8(q + row * padded_k(depth) * k->step_bytes, scales + row, std::min(block, tokens - row), layer, out);
      }
    });
    show(name, time, 2.0 * tokens * n * depth, tokens);
  };
  if (k->linear_s4 != nullptr) profile_s4(k, hidden, inner, tokens, x, y, residual);
  total = 0;
  std::printf("\nint8\n");
  linear("qkv", 3 * hidden, hidden, Activation::kIdentity, k->is_qkv_bf16, false);
  show("attention", attention_time(k, hidden, heads, seq_len, tokens, y, residual),
       4.0 * tokens * seq_len * hidden, tokens);
  linear("out", hidden, hidden, Activation::kIdentity, false, true);
  show("layer norm, twice", 2 * seconds([&] {
    k->layer_norm(x, hidden, tokens, hidden, ones.data(), ones.data(), 1e-12f);
  }), 0, tokens);
  linear("inner with GELU", inner, hidden, Activation::kGelu, false, false);
  linear("outer", hidden, inner, Activation::kIdentity, false, true);
  std::printf("%-22s %8.2f us a token and layer\n", "all", total / tokens * 1e6);
  k->end();
  profile_bf16(k, hidden, inner, tokens, x, y, residual);
  profile_f32(k->exact != nullptr ? k->exact : k, hidden, inner, heads, seq_len, tokens, x, y,
              residual, ones.data());
  const int num_layers = argc > 6 ? std::atoi(argv[6]) : 12;
  if (num_layers == 0) return 0;
  std::printf("\n%d layers, 96 sequences of log-normal length\n", num_layers);
  for (Weights type : {Weights::kInt8, Weights::kBfloat16, Weights::kFloat32}) {
    for (int num_threads : {1, 2}) {
      whole(k, hidden, inner, heads, num_layers, type, num_threads);
    }
  }
}
