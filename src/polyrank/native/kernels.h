// What an instruction set must provide to run a BERT-shaped body, as one table of functions.
//
// Every table computes each row alone: neither the rows beside it in a block nor the block's
// size change a bit of it. Row counts are free; widths are multiples of 32, head sizes of 16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyrank {

enum class Activation : int { kIdentity, kGelu, kGeluTanh, kRelu, kSilu, kTanh, kSigmoid };

// int8 weights lie in panels of 16 outputs, whatever the instruction set, so that a file of them
// serves every machine as it is: [n / 16][padded_k / 4][16 outputs][4 inputs], inputs beyond k
// zero. 64 inputs of a panel are an AMX tile; four are a vector of AVX-512 VNNI, two of AVX2 or
// four of NEON.
constexpr int kPanelOutputs = 16;

// A linear layer y = x W^T + b with int8 weights.
struct LinearS8 {
  int n;                       // outputs, a multiple of 32
  int k;                       // inputs
  const int8_t* weights;       // in panels, aligned to 64 bytes
  const float* scales;         // (n,) value of one step of each output's weights
  const float* bias;           // (n,)
  const int32_t* corrections;  // (n,) added to sums: undoes the offset of unsigned activations;
                               // null where Kernels::is_unsigned is false
};

// Inputs that share a scale in 4-bit blocks, of weights and of activations.
constexpr int kBlockInputs = 32;

// What the steps of one row in one block are worth. Weights are unsigned, from 0 to 15; sums of
// 16 bits start at the corrections, which undo the offset of 8: -8 times the row's steps at the
// inputs 4i and 4i + 1, then at 4i + 2 and 4i + 3.
struct RowBlock {
  float scale;
  int16_t corrections[2];
};

// A linear layer with weights in 4-bit blocks, whose sums fit 16 bits within a block.
struct LinearS4 {
  int n;                   // outputs, a multiple of 32
  int k;                   // inputs, a multiple of kBlockInputs
  const uint8_t* weights;  // a byte each, in panels as of LinearS8, aligned to 64 bytes
  const float* scales;     // [n / 16][k / kBlockInputs][16], aligned to 64 bytes
  const float* bias;       // (n,)
};

// A linear layer with bfloat16 weights and inputs rounded to bfloat16: products are exact in float32,
// and so are sums but for their own rounding. Weights lie in panels of 16 outputs, whatever the
// instruction set: [n / 16][k / 2][16 outputs][2 inputs]. 32 inputs of a panel are an AMX tile, two
// are a vector of AVX-512.
struct LinearBf16 {
  int n;                    // outputs, a multiple of 32
  int k;                    // inputs, a multiple of 32
  const uint16_t* weights;  // in panels, aligned to 64 bytes
  const float* bias;        // (n,)
};

// A linear layer with float32 weights, packed for one instruction set.
struct LinearF32 {
  int n;
  int k;
  const float* weights;  // packed by Kernels::pack_f32
  const float* bias;
};

// Where the results of a linear layer go.
struct Output {
  void* values;           // (rows, ld) float, or bfloat16 where is_bf16
  size_t ld;              // elements from row to row
  bool is_bf16;
  Activation activation;  // applied before the residual
  const float* residual;  // (rows, ld_residual) added last, or null
  size_t ld_residual;
};

// Rows that Kernels::clean may take at once.
constexpr int kMostCleanRows = 4;

// Token rows, to be made less a center and less their parts along orthonormal directions, then of
// unit length; rows of which nothing is left become zeros.
struct CleanCall {
  const float* rows;        // (num_rows, width)
  size_t num_rows;
  int width;
  const float* center;      // (width,)
  const float* directions;  // (num_directions, width)
  int num_directions;
  float* along;             // (kMostCleanRows, num_directions) for the kernel's own use
  float* out;               // (num_rows, width)
};

// Two texts of token rows of unit length, each row `width` values wide and right after the one
// before.
struct MatchCall {
  const float* query;     // (num_query, width)
  int num_query;          // 1 or more, as is num_document
  const float* document;  // (num_document, width)
  int num_document;
  int width;
  float* by_query;        // (num_query,) largest product with a row of the document
  float* by_document;     // (num_document,) largest product with a row of the query
};

// One head of one sequence, some of its queries.
struct AttentionCall {
  const void* qkv;    // first token of the sequence: query, key and value parts of a row
  size_t ld;          // elements from token to token
  int seq_len;
  int query_begin;
  int query_end;
  int head_size;
  size_t query_at;    // element of this head's query within a row
  size_t key_at;
  size_t value_at;
  float* context;     // first token of the sequence, at this head's columns
  size_t ld_context;
  char* scratch;      // Kernels::attention_scratch bytes, aligned to 64
};

struct Kernels {
  const char* name;
  const Kernels* exact;  // the table for float32 weights where this one rounds more; else null
  bool is_qkv_bf16;  // the type that attention reads
  int row_block;     // rows that linear_s8 likes to get at once; quantised rows are padded to it

  bool is_unsigned;  // quantised activations have an offset of 128
  int step_bytes;    // of a quantised activation: 1, or 2 where products are of 16 bits

  // Prepare and release the state of the calling thread (AMX tiles).
  void (*begin)();
  void (*end)();

  size_t (*packed_f32_bytes)(int n, int k);
  void (*pack_f32)(const float* weights, int n, int k, float* packed);

  // Rows to whole numbers with one scale a row: q = round(x * multipliers * 127 / max).
  // `multipliers` may be null. Rows of q lie padded_k(k) elements apart, the padding zero.
  void (*quantize)(const float* x, size_t ld, int rows, int k, const float* multipliers,
                   void* q, float* scales);
  void (*linear_s8)(const void* q, const float* scales, int rows, const LinearS8& linear,
                    const Output& out);
  // The same for weights in 4-bit blocks, each row with one scale a block; null on paths where
  // int8 products are as quick. Rows of `blocks` lie k / kBlockInputs apart.
  void (*quantize_blocks)(const float* x, size_t ld, int rows, int k, int8_t* q, RowBlock* blocks);
  void (*linear_s4)(const int8_t* q, const RowBlock* blocks, int rows, const LinearS4& linear,
                    const Output& out);
  // Rows to bfloat16, k elements apart; they take bf16_bytes each: 2, or 4 where the processor has no
  // products of bfloat16 and float32 ones of the same values stand in for them.
  int bf16_bytes;
  void (*round_rows)(const float* x, size_t ld, int rows, int k, void* rounded);
  void (*linear_bf16)(const void* rounded, int rows, const LinearBf16& linear, const Output& out);
  void (*linear_f32)(const float* x, size_t ld, int rows, const LinearF32& linear,
                     const Output& out);
  size_t (*attention_scratch)(int seq_len, int head_size);
  void (*attention)(const AttentionCall& call);
  void (*layer_norm)(float* x, size_t ld, int rows, int n, const float* gamma, const float* beta,
                     float eps);

  // Late interaction, for rows of any width.
  void (*clean)(const CleanCall& call);
  void (*match)(const MatchCall& call);
};

// Inputs of int8 products are padded to this many values.
constexpr int kDepthBlock = 64;
constexpr size_t padded_k(int k) { return (static_cast<size_t>(k) + kDepthBlock - 1) / kDepthBlock * kDepthBlock; }

constexpr size_t panels_bytes(int n, int k) {
  return (static_cast<size_t>(n) + kPanelOutputs - 1) / kPanelOutputs * kPanelOutputs * padded_k(k);
}
// Packs weights of shape (n, k) into panels.
void pack_panels(const int8_t* weights, int n, int k, int8_t* panels);
// Packs 4-bit blocks as stored (tables.h), `packed` (n, k / 2) and float16 `scales` (n, k / 32), into
// the outputs from `first` on of LinearS4's weights and scales.
void pack_blocks(const uint8_t* packed, const uint16_t* scales, int n, int k, int first,
                 uint8_t* weights, float* block_scales);
// Rounds weights of shape (n, k) to bfloat16, into the outputs from `first` on of LinearBf16's panels.
void pack_bf16(const float* weights, int n, int k, int first, uint16_t* panels);
constexpr size_t panels_bf16_bytes(int n, int k) { return static_cast<size_t>(n) * k * 2; }
// What makes up for an offset of 128 of the inputs: -128 times each output's sum of weights, (n,).
void offset_corrections(const int8_t* panels, int n, int k, int32_t* corrections);

// The best table that this processor runs, or the one that `name` (or the environment variable
// POLYRANK_ISA) forces. Null where a forced one is unknown or does not run here.
const Kernels* choose_kernels(const char* name);
// Names of the tables that this processor runs, best first; ends with null.
const char* const* usable_kernels();

extern const Kernels* const kKernelsPortable;
extern const Kernels* const kKernelsAvx2;
extern const Kernels* const kKernelsAvxVnni;
extern const Kernels* const kKernelsAvx512Bw;
extern const Kernels* const kKernelsAvx512;
extern const Kernels* const kKernelsAvx512Bf16;
extern const Kernels* const kKernelsAmx;
extern const Kernels* const kKernelsNeonI8mm;
extern const Kernels* const kKernelsNeon;

}  // namespace polyrank
