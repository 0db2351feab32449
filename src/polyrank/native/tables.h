// Embedding tables, read row by row where they lie, usually in a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace polyrank {

enum class TableType { kFloat32, kFloat16, kBfloat16, kInt8, kInt4, kMixed };

// Values of an int4 table that share a scale: 16 bytes, the byte j with value j in its low half
// and value j + 16 in its high half. A value is (half - 8) * scale.
constexpr int kInt4Block = 32;

// The value of a float16 given as its bits.
float float16_value(uint16_t bits);

struct Table {
  const void* rows = nullptr;  // a MixedRows for mixed tables
  // float32 (num_rows,) for int8; float16 bits (num_rows, width / kInt4Block) for int4
  const void* scales = nullptr;
  TableType type = TableType::kFloat32;
  size_t num_rows = 0;
};

// Rows of product codes: a byte that names a coarse row, then one a codeword of the row's parts.
struct CodedRows {
  const uint8_t* codes = nullptr;      // (num_rows, 1 + num_parts)
  const uint16_t* codebook = nullptr;  // float16 bits (num_parts, 256, width / num_parts)
  size_t num_rows = 0;
  int num_parts = 0;
};

// A table whose rows are stored in one of four ways each, as docs/reference/checkpoint-format.md describes.
class MixedRows {
 public:
  static constexpr int kCodewords = 256;
  static constexpr int kCodedTiers = 3;
  static constexpr int kTiers = kCodedTiers + 1;

  // `blocks` is an int4 table of the rows of tier 0. `planes` are two bit planes of tier numbers,
  // each of `plane_bytes`, 8 for 64 rows. `coarse` is float16 bits (256, width).
  MixedRows(const Table& blocks, const uint8_t* planes, size_t plane_bytes, size_t num_rows,
            const uint16_t* coarse, const CodedRows (&coded)[kCodedTiers]);

  // How many rows the planes put into a tier.
  size_t num_rows(int tier) const { return totals_[tier]; }

  // Adds a row to n floats, or writes it there. Each tier must store as many rows as it has.
  void add(size_t row, int n, bool is_first, float* out) const;

 private:
  static constexpr size_t kGroup = 64;  // rows that are counted together

  // Bit i: whether row `group * kGroup + i` is of the tier.
  uint64_t members(size_t group, int tier) const;

  Table blocks_;
  const uint8_t* planes_;
  size_t plane_bytes_;
  const uint16_t* coarse_;
  CodedRows coded_[kCodedTiers];
  std::vector<uint32_t> before_;  // (num_groups, kTiers) rows of the tier before the group
  size_t totals_[kTiers] = {};
};

// Throws std::out_of_range, naming `what`, unless the table has every one of these rows. One pass
// over the numbers, so that add_row need not look.
void check_rows(const Table& table, const int32_t* rows, size_t count, const char* what);

// Adds a row of a table to n floats, or writes it there. The row must be one that the table has.
void add_row(const Table& table, int32_t row, int n, bool is_first, float* out);

}  // namespace polyrank
