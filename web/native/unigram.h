// Unigram tokenisation of texts that were normalised: the likeliest cut into pieces of a vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace polyrank {

class Unigram {
 public:
  // `bytes` holds the pieces in UTF-8 end to end, piece i from bounds[i] to bounds[i + 1]. Both are
  // read where they lie; none of the pieces is empty.
  Unigram(const char* bytes, const uint32_t* bounds, const double* scores, int num_pieces,
          int unknown);

  // Appends the ids of a text in UTF-8 whose blanks are marks (U+2581); each mark begins a word, and
  // no piece crosses the beginning of one. Neighbours that are unknown become one id.
  void encode(const char* text, size_t size, std::vector<int32_t>& ids);

 private:
  struct Node {
    double score;
    int32_t start;  // -1 where no path ends
    int32_t id;
  };

  void encode_word(const char* word, size_t size, std::vector<int32_t>& ids);
  template <typename Found>
  void prefixes(const char* text, size_t size, const Found& found) const;
  unsigned char byte_at(uint32_t place, size_t depth) const;

  const char* bytes_;
  const uint32_t* bounds_;
  const double* scores_;
  int unknown_;
  double unknown_score_;
  std::vector<uint32_t> order_;   // pieces in the order of their bytes
  std::vector<uint32_t> firsts_;  // (65,536 + 1,) where those of two first bytes begin
  std::vector<Node> nodes_;
};

}  // namespace polyrank
