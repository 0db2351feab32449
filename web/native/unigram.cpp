#include "unigram.h"

#include <algorithm>
#include <cstring>

namespace polyrank {
namespace {

constexpr double kUnknownPenalty = 10;  // below the least likely piece
constexpr char kMark[] = "\xe2\x96\x81";
constexpr size_t kMarkSize = 3;

// Bytes of the character that begins with `first`.
size_t character_size(unsigned char first) {
  return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

}  // namespace

Unigram::Unigram(const char* bytes, const uint32_t* bounds, const double* scores, int num_pieces,
                 int unknown)
    : bytes_(bytes), bounds_(bounds), scores_(scores), unknown_(unknown) {
  order_.resize(static_cast<size_t>(num_pieces));
  for (int i = 0; i < num_pieces; ++i) order_[i] = static_cast<uint32_t>(i);
  // sorted by eight bytes at first, which tell most pieces apart
  std::vector<uint64_t> keys(order_.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t b = 0; b < 8; ++b) keys[i] = keys[i] << 8 | byte_at(static_cast<uint32_t>(i), b);
  }
  std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) {
    if (keys[a] != keys[b]) return keys[a] < keys[b];
    const size_t size_a = bounds_[a + 1] - bounds_[a], size_b = bounds_[b + 1] - bounds_[b];
    const int order =
        std::memcmp(bytes_ + bounds_[a], bytes_ + bounds_[b], std::min(size_a, size_b));
    // of two equal pieces the later one counts: it comes first
    return order != 0 ? order < 0 : size_a != size_b ? size_a < size_b : a > b;
  });
  firsts_.assign(65536 + 1, 0);
  for (const uint32_t piece : order_) ++firsts_[(keys[piece] >> 48) + 1];
  for (size_t i = 1; i < firsts_.size(); ++i) firsts_[i] += firsts_[i - 1];
  unknown_score_ = *std::min_element(scores, scores + num_pieces) - kUnknownPenalty;
}

// A piece's byte; 0 behind its end, which no text has within a piece.
unsigned char Unigram::byte_at(uint32_t piece, size_t depth) const {
  const size_t at = bounds_[piece] + depth;
  return at < bounds_[piece + 1] ? static_cast<unsigned char>(bytes_[at]) : 0;
}

// Calls found(piece, size) for each piece that the text begins with, short ones first.
template <typename Found>
void Unigram::prefixes(const char* text, size_t size, const Found& found) const {
  const auto* in = reinterpret_cast<const unsigned char*>(text);
  // a piece of one byte stands before all longer ones that begin with it
  const uint32_t* order = order_.data();
  const uint32_t alone = firsts_[static_cast<size_t>(in[0]) << 8];
  if (alone < firsts_[(static_cast<size_t>(in[0]) << 8) + 1] &&
      bounds_[order[alone] + 1] - bounds_[order[alone]] == 1) {
    found(order[alone], 1);
  }
  if (size < 2) return;
  const size_t pair = static_cast<size_t>(in[0]) << 8 | in[1];
  uint32_t low = firsts_[pair], high = firsts_[pair + 1];
  for (size_t depth = 2; low < high; ++depth) {
    const uint32_t piece = order[low];
    if (bounds_[piece + 1] - bounds_[piece] == depth) {
      found(piece, depth);
      while (low < high && bounds_[order[low] + 1] - bounds_[order[low]] == depth) ++low;
    }
    if (depth == size) return;
    const unsigned char next = in[depth];
    low = static_cast<uint32_t>(
        std::partition_point(order + low, order + high,
                             [&](uint32_t p) { return byte_at(p, depth) < next; }) - order);
    high = static_cast<uint32_t>(
        std::partition_point(order + low, order + high,
                             [&](uint32_t p) { return byte_at(p, depth) <= next; }) - order);
  }
}

void Unigram::encode(const char* text, size_t size, std::vector<int32_t>& ids) {
  size_t begin = 0;
  for (size_t at = 1; at <= size; ++at) {
    const bool is_end =
        at == size || (at + kMarkSize <= size && std::memcmp(text + at, kMark, kMarkSize) == 0);
    if (!is_end) continue;
    encode_word(text + begin, at - begin, ids);
    begin = at;
  }
}

void Unigram::encode_word(const char* word, size_t size, std::vector<int32_t>& ids) {
  nodes_.assign(size + 1, Node{0, -1, 0});
  auto offer = [&](size_t end, double score, size_t start, int32_t id) {
    Node& node = nodes_[end];
    if (node.start < 0 || score > node.score) node = {score, static_cast<int32_t>(start), id};
  };
  for (size_t start = 0; start < size;) {
    const double so_far = nodes_[start].score;
    const size_t step = std::min(character_size(static_cast<unsigned char>(word[start])), size - start);
    bool has_single = false;
    prefixes(word + start, size - start, [&](uint32_t piece, size_t length) {
      offer(start + length, scores_[piece] + so_far, start, static_cast<int32_t>(piece));
      has_single = has_single || length == step;
    });
    if (!has_single) offer(start + step, unknown_score_ + so_far, start, unknown_);
    start += step;
  }
  const size_t first = ids.size();
  bool was_unknown = false;
  for (size_t end = size; end > 0; end = static_cast<size_t>(nodes_[end].start)) {
    const bool is_unknown = nodes_[end].id == unknown_;
    if (!is_unknown || !was_unknown) ids.push_back(nodes_[end].id);
    was_unknown = is_unknown;
  }
  std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
}

}  // namespace polyrank
