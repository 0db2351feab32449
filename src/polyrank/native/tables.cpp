#include "tables.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace polyrank {
namespace {

// std::bit_cast, which the standard library of Debian's emscripten lacks.
template <typename To, typename From>
constexpr To same_bits(From value) {
  return __builtin_bit_cast(To, value);
}

// Without branches, so that compilers take several at a time.
inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  // below the smallest normal half the exponent is 2^-14 without a leading 1
  const float denormal = same_bits<float>(magnitude + (113u << 23)) - 6.103515625e-5f;
  uint32_t bits = magnitude + ((h & 0x7c00) == 0x7c00 ? 224u << 23 : 112u << 23);
  bits = (h & 0x7c00) == 0 ? same_bits<uint32_t>(denormal) : bits;
  return same_bits<float>(bits | static_cast<uint32_t>(h & 0x8000) << 16);
}

inline float bfloat_to_float(uint16_t b) {
  return same_bits<float>(static_cast<uint32_t>(b) << 16);
}

// Adds n values, read one by one, to as many floats, or writes them there.
template <typename Read>
inline void add_values(int n, bool is_first, float* out, const Read& read) {
  if (is_first) {
    for (int j = 0; j < n; ++j) out[j] = read(j);
  } else {
    for (int j = 0; j < n; ++j) out[j] += read(j);
  }
}

void add_int4_row(const Table& table, size_t row, int n, bool is_first, float* out) {
  constexpr int half = kInt4Block / 2;
  const size_t blocks = static_cast<size_t>(n) / kInt4Block;
  const uint16_t* scales = static_cast<const uint16_t*>(table.scales) + row * blocks;
  const uint8_t* bytes = static_cast<const uint8_t*>(table.rows) + row * blocks * half;
  for (size_t b = 0; b < blocks; ++b, bytes += half, out += kInt4Block) {
    const float scale = half_to_float(scales[b]);
    add_values(half, is_first, out, [=](int j) { return ((bytes[j] & 15) - 8) * scale; });
    add_values(half, is_first, out + half, [=](int j) { return ((bytes[j] >> 4) - 8) * scale; });
  }
}

// Parts of `size` values, their codewords added to those of the coarse row. Sizes that are known
// to the compiler are unrolled.
template <int size>
void add_parts(const CodedRows& rows, const uint8_t* codes, const uint16_t* coarse, int any_size,
               bool is_first, float* out) {
  const int n = size != 0 ? size : any_size;
  const uint16_t* codewords = rows.codebook;
  for (int part = 0; part < rows.num_parts; ++part, coarse += n, out += n) {
    const uint16_t* word = codewords + static_cast<size_t>(codes[part]) * n;
    add_values(n, is_first, out,
               [=](int j) { return half_to_float(coarse[j]) + half_to_float(word[j]); });
    codewords += static_cast<size_t>(MixedRows::kCodewords) * n;
  }
}

void add_coded_row(const CodedRows& rows, const uint16_t* coarse, size_t row, int n, bool is_first,
                   float* out) {
  const uint8_t* codes = rows.codes + row * (1 + static_cast<size_t>(rows.num_parts));
  const int size = n / rows.num_parts;
  coarse += static_cast<size_t>(*codes++) * n;
  switch (size) {
    case 3: return add_parts<3>(rows, codes, coarse, size, is_first, out);
    case 4: return add_parts<4>(rows, codes, coarse, size, is_first, out);
    case 8: return add_parts<8>(rows, codes, coarse, size, is_first, out);
    case 16: return add_parts<16>(rows, codes, coarse, size, is_first, out);
    default: return add_parts<0>(rows, codes, coarse, size, is_first, out);
  }
}

}  // namespace

float float16_value(uint16_t bits) { return half_to_float(bits); }

MixedRows::MixedRows(const Table& blocks, const uint8_t* planes, size_t plane_bytes,
                     size_t num_rows, const uint16_t* coarse,
                     const CodedRows (&coded)[kCodedTiers])
    : blocks_(blocks), planes_(planes), plane_bytes_(plane_bytes), coarse_(coarse) {
  std::copy(coded, coded + kCodedTiers, coded_);
  const size_t num_groups = (num_rows + kGroup - 1) / kGroup;
  before_.reserve(num_groups * kTiers);
  for (size_t group = 0; group < num_groups; ++group) {
    const size_t left = num_rows - group * kGroup;
    const uint64_t exist = left >= kGroup ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    for (int tier = 0; tier < kTiers; ++tier) {
      before_.push_back(static_cast<uint32_t>(totals_[tier]));
      totals_[tier] += static_cast<size_t>(std::popcount(members(group, tier) & exist));
    }
  }
}

uint64_t MixedRows::members(size_t group, int tier) const {
  uint64_t low, high;  // as everything in the file, little-endian
  std::memcpy(&low, planes_ + group * sizeof low, sizeof low);
  std::memcpy(&high, planes_ + plane_bytes_ + group * sizeof high, sizeof high);
  return (tier & 1 ? low : ~low) & (tier & 2 ? high : ~high);
}

void MixedRows::add(size_t row, int n, bool is_first, float* out) const {
  const size_t group = row / kGroup;
  const uint64_t bit = uint64_t{1} << row % kGroup;
  int tier = 0;
  uint64_t mates = members(group, tier);
  while ((mates & bit) == 0) mates = members(group, ++tier);
  const size_t place = before_[group * kTiers + static_cast<size_t>(tier)] +
                       static_cast<size_t>(std::popcount(mates & (bit - 1)));
  if (tier == 0) return add_int4_row(blocks_, place, n, is_first, out);
  add_coded_row(coded_[tier - 1], coarse_, place, n, is_first, out);
}

void check_rows(const Table& table, const int32_t* rows, size_t count, const char* what) {
  uint32_t most = 0;  // what is below zero becomes larger than any row; without branches
  for (size_t i = 0; i < count; ++i) most = std::max(most, static_cast<uint32_t>(rows[i]));
  if (count == 0 || most < table.num_rows) return;
  throw std::out_of_range(std::string(what) + " " + std::to_string(static_cast<int32_t>(most)) +
                          " is outside a table of " + std::to_string(table.num_rows) + " rows");
}

void add_row(const Table& table, int32_t row, int n, bool is_first, float* out) {
  const size_t at = static_cast<size_t>(row) * n;
  switch (table.type) {
    case TableType::kFloat32: {
      const float* in = static_cast<const float*>(table.rows) + at;
      return add_values(n, is_first, out, [=](int j) { return in[j]; });
    }
    case TableType::kFloat16: {
      const uint16_t* in = static_cast<const uint16_t*>(table.rows) + at;
      return add_values(n, is_first, out, [=](int j) { return half_to_float(in[j]); });
    }
    case TableType::kBfloat16: {
      const uint16_t* in = static_cast<const uint16_t*>(table.rows) + at;
      return add_values(n, is_first, out, [=](int j) { return bfloat_to_float(in[j]); });
    }
    case TableType::kInt8: {
      const int8_t* in = static_cast<const int8_t*>(table.rows) + at;
      const float scale = static_cast<const float*>(table.scales)[row];
      return add_values(n, is_first, out, [=](int j) { return in[j] * scale; });
    }
    case TableType::kInt4:
      return add_int4_row(table, static_cast<size_t>(row), n, is_first, out);
    case TableType::kMixed:
      return static_cast<const MixedRows*>(table.rows)->add(static_cast<size_t>(row), n, is_first,
                                                            out);
  }
}

}  // namespace polyrank
