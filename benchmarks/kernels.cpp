// Time of each part of a layer on one thread, with the rate of its products: where the native
// encoder spends its time. Build and run with `make bench-kernels`.
//
//   bench_kernels [hidden inner heads seq_len tokens]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels.h"
#include "model.h"

using namespace polyrank;

namespace {

double seconds(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  work();
  double best = 1e9;
  for (int round = 0; round < 7; ++round) {
    int count = 0;
    auto start = Clock::now();
    double spent = 0;
    while (spent < 0.03) {
      work();
      ++count;
      spent = std::chrono::duration<double>(Clock::now() - start).count();
    }
    best = std::min(best, spent / count);
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
  int8_t* q = memory<int8_t>(static_cast<size_t>(tokens + 64) * padded_k(widest));
  float* scales = memory<float>(tokens + 64);
  std::vector<float> ones(widest, 1.0f);
  k->begin();
  auto linear = [&](const char* name, int n, int depth, Activation activation, bool bf16, bool add) {
    std::vector<int8_t> raw(static_cast<size_t>(n) * depth);
    for (auto& w : raw) w = static_cast<int8_t>(random() % 255 - 127);
    int8_t* packed = memory<int8_t>(k->packed_s8_bytes(n, depth));
    std::vector<int32_t> corrections(n + 64);
    k->pack_s8(raw.data(), n, depth, packed, corrections.data());
    std::vector<float> column_scales(n + 64, 1e-3f), bias(n + 64, 0.1f);
    LinearS8 layer{n, depth, packed, column_scales.data(), bias.data(), corrections.data()};
    char label[64];
    std::snprintf(label, sizeof label, "quantise for %s", name);
    int block = k->row_block;
    show(label, seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        k->quantize(x + static_cast<size_t>(row) * depth, depth, std::min(block, tokens - row),
                    depth, ones.data(), q + row * padded_k(depth), scales + row);
      }
    }), 0, tokens);
    double time = seconds([&] {
      for (int row = 0; row < tokens; row += block) {
        Output out{bf16 ? static_cast<void*>(reinterpret_cast<uint16_t*>(y) + static_cast<size_t>(row) * n)
                        : static_cast<void*>(y + static_cast<size_t>(row) * n),
                   static_cast<size_t>(n), bf16, activation,
                   add ? residual + static_cast<size_t>(row) * n : nullptr, static_cast<size_t>(n)};
        k->linear_s8(q + row * padded_k(depth), scales + row, std::min(block, tokens - row), layer, out);
      }
    });
    show(name, time, 2.0 * tokens * n * depth, tokens);
  };
  linear("qkv", 3 * hidden, hidden, Activation::kIdentity, k->is_qkv_bf16, false);
  size_t element = k->is_qkv_bf16 ? 2 : 4;
  std::vector<char> scratch(k->attention_scratch(seq_len, hidden / heads) + 64);
  char* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
  int sequences = std::max(1, tokens / seq_len);
  show("attention", seconds([&] {
    for (int s = 0; s < sequences; ++s) {
      for (int h = 0; h < heads; ++h) {
        AttentionCall call{reinterpret_cast<char*>(y) + static_cast<size_t>(s) * seq_len * 3 * hidden * element,
                           static_cast<size_t>(3) * hidden, seq_len, 0, seq_len, hidden / heads,
                           static_cast<size_t>(h * hidden / heads),
                           static_cast<size_t>(hidden + h * hidden / heads),
                           static_cast<size_t>(2 * hidden + h * hidden / heads),
                           residual + h * hidden / heads, static_cast<size_t>(hidden), aligned};
        k->attention(call);
      }
    }
  }) * tokens / (static_cast<double>(sequences) * seq_len), 4.0 * tokens * seq_len * hidden, tokens);
  linear("out", hidden, hidden, Activation::kIdentity, false, true);
  show("layer norm, twice", 2 * seconds([&] {
    k->layer_norm(x, hidden, tokens, hidden, ones.data(), ones.data(), 1e-12f);
  }), 0, tokens);
  linear("inner with GELU", inner, hidden, Activation::kGelu, false, false);
  linear("outer", hidden, inner, Activation::kIdentity, false, true);
  std::printf("%-22s %8.2f us a token and layer\n", "all", total / tokens * 1e6);
  float* fx = y;
  float* packed = memory<float>(k->packed_f32_bytes(inner, hidden) / 4);
  std::vector<float> raw(static_cast<size_t>(inner) * hidden, 0.5f), bias(inner + 64);
  k->pack_f32(raw.data(), inner, hidden, packed);
  double time = seconds([&] {
    k->linear_f32(x, hidden, tokens, {inner, hidden, packed, bias.data()},
                  {fx, static_cast<size_t>(inner), false, Activation::kIdentity, nullptr, 0});
  });
  std::printf("%-22s %8.2f us a token  %7.0f GFLOPS\n", "float32 inner", time / tokens * 1e6,
              2.0 * tokens * inner * hidden / time / 1e9);
  k->end();
}
