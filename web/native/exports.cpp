// What JavaScript calls. Holds no arithmetic but the reading of 4-bit blocks. Numbers, shapes and
// bounds are checked by the caller (web/src/module.ts): a throw would end the module.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "model.h"
#include "tables.h"
#include "unigram.h"

#define EXPORTED(name) extern "C" __attribute__((export_name(name)))

namespace {

using namespace polyrank;

// A body and the tiered table that it reads.
struct Loaded {
  Loaded(const Shape& shape, const Kernels* kernels) : body(shape, kernels) {}
  Body body;
  std::unique_ptr<MixedRows> mixed;
};

struct Tokens {
  Unigram unigram;
  std::vector<int32_t> ids;
};

// The values of 4-bit blocks, as the Python layer makes them: (half - 8) * scale.
void read_blocks(const uint8_t* packed, const uint16_t* scales, size_t num_blocks, float* out) {
  constexpr int half = kInt4Block / 2;
  for (size_t b = 0; b < num_blocks; ++b, packed += half, out += kInt4Block) {
    const float scale = float16_value(scales[b]);
    for (int j = 0; j < half; ++j) {
      out[j] = static_cast<float>((packed[j] & 15) - 8) * scale;
      out[j + half] = static_cast<float>((packed[j] >> 4) - 8) * scale;
    }
  }
}

}  // namespace

EXPORTED("polyrank_take") void* polyrank_take(size_t bytes) {
  return std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

EXPORTED("polyrank_free") void polyrank_free(void* memory) { std::free(memory); }

EXPORTED("polyrank_body") Loaded* polyrank_body(int hidden_size, int num_layers, int num_heads,
                                                int intermediate_size, float layer_norm_eps,
                                                int activation) {
  const Shape shape{hidden_size,    num_layers,     num_heads, intermediate_size,
                    layer_norm_eps, static_cast<Activation>(activation)};
  return new (std::nothrow) Loaded(shape, kKernelsPortable);
}

// The positions and segments of a body, of types as numbered in tables.h.
EXPORTED("polyrank_set_tables") void polyrank_set_tables(
    Loaded* loaded, const void* words, const void* word_scales, int word_type, size_t num_words,
    const void* positions, int position_type, size_t num_positions, const void* types,
    int types_type, size_t num_types) {
  const void* rows = word_type == static_cast<int>(TableType::kMixed) ? loaded->mixed.get() : words;
  loaded->body.set_tables({rows, word_scales, static_cast<TableType>(word_type), num_words},
                          {positions, nullptr, static_cast<TableType>(position_type), num_positions},
                          {types, nullptr, static_cast<TableType>(types_type), num_types});
}

// A tiered table; `coded` holds for each coded tier: codes, codebook, rows, parts. Returns 0 where
// the planes put another number of rows into a tier than it stores.
EXPORTED("polyrank_set_mixed") int polyrank_set_mixed(
    Loaded* loaded, const void* blocks, const void* scales, size_t num_blocks,
    const uint8_t* planes, size_t plane_bytes, size_t num_words, const uint16_t* coarse,
    const uint32_t* coded) {
  CodedRows tiers[MixedRows::kCodedTiers];
  for (int t = 0; t < MixedRows::kCodedTiers; ++t, coded += 4) {
    tiers[t] = {reinterpret_cast<const uint8_t*>(coded[0]),
                reinterpret_cast<const uint16_t*>(coded[1]), coded[2], static_cast<int>(coded[3])};
  }
  const Table first{blocks, scales, TableType::kInt4, num_blocks};
  loaded->mixed =
      std::make_unique<MixedRows>(first, planes, plane_bytes, num_words, coarse, tiers);
  bool fits = loaded->mixed->num_rows(0) == num_blocks;
  for (int t = 0; t < MixedRows::kCodedTiers; ++t) {
    fits = fits && loaded->mixed->num_rows(t + 1) == tiers[t].num_rows;
  }
  return fits;
}

EXPORTED("polyrank_set_embedding_norm") void polyrank_set_embedding_norm(Loaded* loaded,
                                                                        const float* gamma,
                                                                        const float* beta) {
  loaded->body.set_embedding_norm(gamma, beta);
}

EXPORTED("polyrank_set_norm") void polyrank_set_norm(Loaded* loaded, int layer, int which,
                                                     const float* gamma, const float* beta) {
  loaded->body.set_norm(layer, which, gamma, beta);
}

// A linear layer stored in 4-bit blocks; int8 steps are made of it. `packed`, `scales` and `biases`
// are addresses of `num_parts` equal parts, each of `blocks_a_part` blocks.
EXPORTED("polyrank_set_linear_blocks") void polyrank_set_linear_blocks(
    Loaded* loaded, int layer, int which, int num_parts, size_t blocks_a_part,
    const uint8_t* const* packed, const uint16_t* const* scales, const float* const* biases,
    const float* multipliers) {
  std::vector<float> values(blocks_a_part * kInt4Block * static_cast<size_t>(num_parts));
  std::vector<const float*> parts;
  for (int p = 0; p < num_parts; ++p) {
    float* part = values.data() + blocks_a_part * kInt4Block * static_cast<size_t>(p);
    read_blocks(packed[p], scales[p], blocks_a_part, part);
    parts.push_back(part);
  }
  loaded->body.set_linear(layer, static_cast<Linear>(which), parts.data(), biases, num_parts,
                          Weights::kInt8, multipliers, 1);
}

// Writes token rows, (num_tokens, hidden_size), or a row a text where `pooling` asks for it.
EXPORTED("polyrank_run") void polyrank_run(const Loaded* loaded, const int32_t* ids,
                                           const int32_t* positions, const int32_t* cu_seqlens,
                                           int num_sequences, int pooling, float* out) {
  const size_t tokens = static_cast<size_t>(cu_seqlens[num_sequences]);
  loaded->body.run({ids, nullptr, positions, cu_seqlens, num_sequences, tokens},
                   static_cast<Pooling>(pooling), 1, out);
}

// Cleans rows in place of `out`; `along` has room for kMostCleanRows rows of num_directions.
EXPORTED("polyrank_clean") void polyrank_clean(const float* rows, size_t num_rows, int width,
                                               const float* center, const float* directions,
                                               int num_directions, float* along, float* out) {
  kKernelsPortable->clean({rows, num_rows, width, center, directions, num_directions, along, out});
}

EXPORTED("polyrank_match") void polyrank_match(const float* query, int num_query,
                                               const float* document, int num_document, int width,
                                               float* by_query, float* by_document) {
  kKernelsPortable->match(
      {query, num_query, document, num_document, width, by_query, by_document});
}

EXPORTED("polyrank_tokens") Tokens* polyrank_tokens(const char* bytes, const uint32_t* bounds,
                                                    const double* scores, int num_pieces,
                                                    int unknown) {
  return new (std::nothrow) Tokens{Unigram(bytes, bounds, scores, num_pieces, unknown), {}};
}

// Returns how many ids a text has; polyrank_ids tells where they lie, until the next call.
EXPORTED("polyrank_encode") int polyrank_encode(Tokens* tokens, const char* text, size_t size) {
  tokens->ids.clear();
  tokens->unigram.encode(text, size, tokens->ids);
  return static_cast<int>(tokens->ids.size());
}

EXPORTED("polyrank_ids") const int32_t* polyrank_ids(const Tokens* tokens) {
  return tokens->ids.data();
}
