// The Python face of the native code: polyrank._native. Holds no arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "model.h"

namespace nb = nanobind;

namespace {

using polyrank::Activation;
using polyrank::Body;
using polyrank::Linear;
using polyrank::Pooling;
using polyrank::Table;
using polyrank::TableType;
using polyrank::Weights;

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Codebook = nb::ndarray<const uint16_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Panels = nb::ndarray<const int8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;
using Floats1 = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig>;

void check(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

constexpr int kMostLayers = 1 << 16;  // sizes beyond these are mistakes, and products of them
constexpr int kMostWidth = 1 << 20;   // would leave an int

// Where an array begins, once it is known that its values lie where the processor may read them.
template <typename T, typename Array>
const T* aligned(const Array& array) {
    check(reinterpret_cast<uintptr_t>(array.data()) % alignof(T) == 0, "an array is not aligned");
    return static_cast<const T*>(array.data());
}
template <typename T, typename... Rest>
const T* data_of(const nb::ndarray<const T, Rest...>& array) {
    return aligned<T>(array);
}

nb::dict cpu_features() {
    const polyrank::CpuFeatures& cpu = polyrank::cpu_features();
    nb::dict out;
    out["avx2"] = cpu.avx2;
    out["fma"] = cpu.fma;
    out["f16c"] = cpu.f16c;
    out["avx_vnni"] = cpu.avx_vnni;
    out["avx512"] = cpu.avx512;
    out["avx512_vnni"] = cpu.avx512_vnni;
    out["avx512_bf16"] = cpu.avx512_bf16;
    out["quick_bf16"] = cpu.quick_bf16;
    out["amx_int8"] = cpu.amx_int8;
    out["amx_bf16"] = cpu.amx_bf16;
    out["neon_dotprod"] = cpu.neon_dotprod;
    out["neon_i8mm"] = cpu.neon_i8mm;
    out["neon_bf16"] = cpu.neon_bf16;
    return out;
}

// The kernels that POLYRANK_ISA names, or the best ones.
const polyrank::Kernels& kernels_here() {
    const polyrank::Kernels* kernels = polyrank::choose_kernels(nullptr);
    check(kernels != nullptr, "no such kernels for this processor (the variable POLYRANK_ISA)");
    return *kernels;
}

Rows clean_rows(Matrix<float> rows, Vector<float> center, Matrix<float> directions) {
    const size_t width = rows.shape(1);
    check(width <= kMostWidth && directions.shape(0) <= kMostWidth, "rows are too wide");
    check(center.shape(0) == width && directions.shape(1) == width,
          "center and directions must be as wide as the rows");
    const polyrank::Kernels& kernels = kernels_here();
    float* out = new float[rows.shape(0) * width];
    nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    {
        nb::gil_scoped_release release;
        std::vector<float> along(polyrank::kMostCleanRows * directions.shape(0));
        kernels.clean({data_of(rows), rows.shape(0), static_cast<int>(width), data_of(center),
                       data_of(directions), static_cast<int>(directions.shape(0)), along.data(),
                       out});
    }
    return {out, {rows.shape(0), width}, owner};
}

Floats1 make_floats(size_t size, float** values) {
    *values = new float[size];
    nb::capsule owner(*values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return {*values, {size}, owner};
}

// Checks spans and returns how many rows they name together.
size_t count_rows(const Matrix<int32_t>& spans, size_t num_rows) {
    check(spans.shape(1) == 2, "spans are pairs of bounds");
    const int32_t* bounds = data_of(spans);
    size_t count = 0;
    for (size_t i = 0; i < spans.shape(0); ++i) {
        const int32_t start = bounds[2 * i], end = bounds[2 * i + 1];
        check(start >= 0 && start < end && static_cast<size_t>(end) <= num_rows,
              "a span is empty or outside the rows");
        count += static_cast<size_t>(end - start);
    }
    return count;
}

nb::tuple best_products(Matrix<float> rows, Matrix<int32_t> queries, Matrix<int32_t> documents) {
    check(queries.shape(0) == documents.shape(0), "queries and documents must be equally many");
    check(rows.shape(1) <= kMostWidth, "rows are too wide");
    const polyrank::Kernels& kernels = kernels_here();
    float *by_query, *by_document;
    Floats1 first = make_floats(count_rows(queries, rows.shape(0)), &by_query);
    Floats1 second = make_floats(count_rows(documents, rows.shape(0)), &by_document);
    {
        nb::gil_scoped_release release;
        const size_t width = rows.shape(1);
        const float* first_row = data_of(rows);
        for (size_t i = 0; i < queries.shape(0); ++i) {
            const polyrank::MatchCall call{
                first_row + static_cast<size_t>(queries(i, 0)) * width,
                queries(i, 1) - queries(i, 0),
                first_row + static_cast<size_t>(documents(i, 0)) * width,
                documents(i, 1) - documents(i, 0),
                static_cast<int>(width),
                by_query,
                by_document};
            kernels.match(call);
            by_query += call.num_query;
            by_document += call.num_document;
        }
    }
    return nb::make_tuple(first, second);
}

std::vector<std::string> usable_paths() {
    std::vector<std::string> names;
    for (const char* const* name = polyrank::usable_kernels(); *name != nullptr; ++name) {
        names.emplace_back(*name);
    }
    return names;
}

// From plain to fast.
std::vector<std::string> compiled_paths() {
    return {
#ifdef POLYRANK_HAVE_PORTABLE
        "portable",
#endif
#ifdef POLYRANK_HAVE_NEON
        "neon",
#endif
#ifdef POLYRANK_HAVE_NEONI8MM
        "neoni8mm",
#endif
#ifdef POLYRANK_HAVE_AVX2
        "avx2",
#endif
#ifdef POLYRANK_HAVE_AVXVNNI
        "avxvnni",
#endif
#ifdef POLYRANK_HAVE_AVX512BW
        "avx512bw",
#endif
#ifdef POLYRANK_HAVE_AVX512
        "avx512",
#endif
#ifdef POLYRANK_HAVE_AVX512BF16
        "avx512bf16",
#endif
#ifdef POLYRANK_HAVE_AMX
        "amx",
#endif
    };
}

template <typename Choice>
Choice choose(const std::vector<std::pair<const char*, Choice>>& choices, const std::string& name) {
    for (const auto& [known, choice] : choices) {
        if (name == known) return choice;
    }
    throw std::invalid_argument("unknown name: " + name);
}

// A body and the arrays that it reads in place.
class NativeBody {
  public:
    NativeBody(int hidden_size, int num_layers, int num_heads, int intermediate_size,
               float layer_norm_eps, const std::string& activation, const std::string& compute_dtype,
               const std::string& isa)
        : shape_{checked_sizes(hidden_size, num_layers, num_heads, intermediate_size), num_layers,
                 num_heads, intermediate_size, layer_norm_eps,
                 choose<Activation>({{"identity", Activation::kIdentity},
                                     {"gelu", Activation::kGelu},
                                     {"gelu_tanh", Activation::kGeluTanh},
                                     {"relu", Activation::kRelu},
                                     {"silu", Activation::kSilu},
                                     {"tanh", Activation::kTanh},
                                     {"sigmoid", Activation::kSigmoid}},
                                    activation)},
          type_(choose<Weights>({{"float32", Weights::kFloat32},
                                 {"int8", Weights::kInt8},
                                 {"bfloat16", Weights::kBfloat16}},
                                compute_dtype)),
          kernels_(choose_or_throw(isa, type_ == Weights::kFloat32)),
          body_(shape_, kernels_) {}

    NativeBody(const NativeBody&) = delete;
    NativeBody& operator=(const NativeBody&) = delete;

    void set_tables(AnyMatrix words, AnyMatrix positions, AnyMatrix types,
                    std::optional<AnyArray> word_scales, const std::string& bits16) {
        body_.set_tables(table(words, word_scales, bits16), table(positions, {}, bits16),
                         table(types, {}, bits16));
        kept_ = {words, positions, types};
        kept_scales_ = word_scales;
    }

    // Words in four tiers: 4-bit blocks, and coded rows by three codebooks; see tables.h.
    void set_mixed_tables(AnyMatrix blocks, AnyArray scales, Matrix<uint8_t> planes,
                          Matrix<uint16_t> coarse, const std::vector<Matrix<uint8_t>>& codes,
                          const std::vector<Codebook>& codebooks, int num_words,
                          AnyMatrix positions, AnyMatrix types, const std::string& bits16) {
        using polyrank::CodedRows;
        using polyrank::MixedRows;
        constexpr size_t tiers = MixedRows::kCodedTiers;
        const size_t width = shape_.hidden_size;
        const Table tier0 = table(blocks, scales, bits16);
        check(tier0.type == TableType::kInt4, "the first tier is of 4-bit blocks");
        check(num_words > 0 && planes.shape(0) == 2 &&
                  planes.shape(1) == (static_cast<size_t>(num_words) + 63) / 64 * 8,
              "tiers are two bit planes, filled up to whole words of 64 bits");
        check(coarse.shape(0) == MixedRows::kCodewords, "there are 256 coarse rows");
        check_width(coarse.shape(1), shape_.hidden_size);
        check(codes.size() == tiers && codebooks.size() == tiers, "there are three coded tiers");
        CodedRows coded[tiers];
        for (size_t t = 0; t < tiers; ++t) {
            const size_t parts = codebooks[t].shape(0);
            check(codebooks[t].shape(1) == MixedRows::kCodewords && parts > 0 &&
                      parts * codebooks[t].shape(2) == width && codes[t].shape(1) == parts + 1,
                  "a codebook holds 256 codewords for each part of a row");
            coded[t] = {codes[t].data(), data_of(codebooks[t]), codes[t].shape(0),
                        static_cast<int>(parts)};
        }
        auto rows = std::make_unique<MixedRows>(tier0, planes.data(), planes.shape(1),
                                                static_cast<size_t>(num_words), data_of(coarse),
                                                coded);
        check(rows->num_rows(0) == blocks.shape(0), "the first tier has another number of rows");
        for (size_t t = 0; t < tiers; ++t) {
            check(rows->num_rows(static_cast<int>(t) + 1) == coded[t].num_rows,
                  "a tier has another number of rows than its plane says");
        }
        body_.set_tables(
            {rows.get(), nullptr, TableType::kMixed, static_cast<size_t>(num_words)},
            table(positions, {}, bits16), table(types, {}, bits16));
        mixed_ = std::move(rows);
        kept_ = {blocks, positions, types};
        kept_scales_ = scales;
        kept_codes_ = codes;
        kept_codes_.push_back(planes);
        kept_codebooks_ = codebooks;
        kept_coarse_ = coarse;
    }

    void set_embedding_norm(Vector<float> gamma, Vector<float> beta) {
        check_width(gamma.shape(0), shape_.hidden_size);
        check_width(beta.shape(0), shape_.hidden_size);
        body_.set_embedding_norm(data_of(gamma), data_of(beta));
    }

    void set_norm(int layer, int which, Vector<float> gamma, Vector<float> beta) {
        check_layer(layer);
        check(which == 0 || which == 1, "which must be 0 or 1");
        check_width(gamma.shape(0), shape_.hidden_size);
        check_width(beta.shape(0), shape_.hidden_size);
        body_.set_norm(layer, which, data_of(gamma), data_of(beta));
    }

    void set_linear(int layer, const std::string& name, const std::vector<Matrix<float>>& weights,
                    const std::vector<Vector<float>>& biases,
                    std::optional<Vector<float>> multipliers, int num_threads) {
        check_layer(layer);
        const Linear which = linear(name);
        const int inputs = which == polyrank::kOuter ? shape_.intermediate_size : shape_.hidden_size;
        const int outputs = which == polyrank::kInner ? shape_.intermediate_size : shape_.hidden_size;
        check(weights.size() == (which == polyrank::kQkv ? 3u : 1u) && biases.size() == weights.size(),
              "query, key and value come as three matrices, others as one");
        std::vector<const float*> parts, bias_parts;
        for (size_t i = 0; i < weights.size(); ++i) {
            check_width(weights[i].shape(0), outputs);
            check_width(weights[i].shape(1), inputs);
            check_width(biases[i].shape(0), outputs);
            parts.push_back(data_of(weights[i]));
            bias_parts.push_back(data_of(biases[i]));
        }
        if (multipliers) check_width(multipliers->shape(0), inputs);
        const float* scale = multipliers ? data_of(*multipliers) : nullptr;
        nb::gil_scoped_release release;
        body_.set_linear(layer, which, parts.data(), bias_parts.data(),
                         static_cast<int>(parts.size()), type_, scale, num_threads);
    }

    // Weights that are int8 already; query, key and value one below the other.
    void set_linear_s8(int layer, const std::string& name, Matrix<int8_t> weights,
                       Vector<float> scales, Vector<float> bias,
                       std::optional<Vector<float>> multipliers) {
        check_layer(layer);
        check(type_ == Weights::kInt8, "only an int8 body takes int8 weights");
        const Linear which = linear(name);
        const int inputs = which == polyrank::kOuter ? shape_.intermediate_size : shape_.hidden_size;
        const int outputs = which == polyrank::kQkv     ? 3 * shape_.hidden_size
                            : which == polyrank::kInner ? shape_.intermediate_size
                                                        : shape_.hidden_size;
        check_width(weights.shape(0), outputs);
        check_width(weights.shape(1), inputs);
        check_width(scales.shape(0), outputs);
        check_width(bias.shape(0), outputs);
        if (multipliers) check_width(multipliers->shape(0), inputs);
        nb::gil_scoped_release release;
        body_.set_linear_s8(layer, which, weights.data(), data_of(scales), data_of(bias),
                            multipliers ? data_of(*multipliers) : nullptr);
    }

    // Weights in 4-bit blocks as stored, with their float16 scales as bits: one matrix, for query,
    // key and value three.
    void set_linear_blocks(int layer, const std::string& name,
                           const std::vector<Matrix<uint8_t>>& weights,
                           const std::vector<Matrix<uint16_t>>& scales,
                           const std::vector<Vector<float>>& biases) {
        check_layer(layer);
        check(type_ == Weights::kInt8 && kernels_->linear_s4 != nullptr, "these kernels take no 4-bit blocks");
        const Linear which = linear(name);
        check(weights.size() == (which == polyrank::kQkv ? 3u : 1u) &&
                  scales.size() == weights.size() && biases.size() == weights.size(),
              "query, key and value come as three matrices, others as one");
        const int inputs = which == polyrank::kOuter ? shape_.intermediate_size : shape_.hidden_size;
        const int outputs = which == polyrank::kInner ? shape_.intermediate_size : shape_.hidden_size;
        std::vector<const uint8_t*> parts;
        std::vector<const uint16_t*> scale_parts;
        std::vector<const float*> bias_parts;
        for (size_t i = 0; i < weights.size(); ++i) {
            check_width(weights[i].shape(0), outputs);
            check_width(weights[i].shape(1), inputs / 2);
            check_width(scales[i].shape(0), outputs);
            check_width(scales[i].shape(1), inputs / polyrank::kBlockInputs);
            check_width(biases[i].shape(0), outputs);
            parts.push_back(weights[i].data());
            scale_parts.push_back(data_of(scales[i]));
            bias_parts.push_back(data_of(biases[i]));
        }
        nb::gil_scoped_release release;
        body_.set_linear_blocks(layer, which, parts.data(), scale_parts.data(), bias_parts.data(),
                                static_cast<int>(parts.size()));
    }

    // Weights in panels (kernels.h), read in place: one array, for query, key and value three.
    void set_linear_panels(int layer, const std::string& name, const std::vector<Panels>& parts,
                           Vector<float> scales, Vector<float> bias,
                           std::optional<Vector<float>> multipliers) {
        check_layer(layer);
        check(type_ == Weights::kInt8, "only an int8 body takes int8 weights");
        const Linear which = linear(name);
        check(parts.size() == (which == polyrank::kQkv ? 3u : 1u),
              "query, key and value come as three arrays, others as one");
        const int inputs = which == polyrank::kOuter ? shape_.intermediate_size : shape_.hidden_size;
        const int outputs = which == polyrank::kInner ? shape_.intermediate_size : shape_.hidden_size;
        std::vector<const int8_t*> rows;
        for (const Panels& part : parts) {
            check_width(part.shape(0) * part.shape(2), outputs);
            check_width(part.shape(1) * part.shape(3), static_cast<int>(polyrank::padded_k(inputs)));
            check(part.shape(2) == polyrank::kPanelOutputs && part.shape(3) == 4,
                  "panels are of 16 outputs and 4 inputs");
            rows.push_back(part.data());
        }
        check_width(scales.shape(0), outputs * static_cast<int>(parts.size()));
        check_width(bias.shape(0), outputs * static_cast<int>(parts.size()));
        if (multipliers) check_width(multipliers->shape(0), inputs);
        kept_panels_.insert(kept_panels_.end(), parts.begin(), parts.end());
        nb::gil_scoped_release release;
        body_.set_linear_panels(layer, which, rows.data(), static_cast<int>(rows.size()),
                                data_of(scales), data_of(bias),
                                multipliers ? data_of(*multipliers) : nullptr);
    }

    Rows run(Vector<int32_t> input_ids, std::optional<Vector<int32_t>> token_types,
             Vector<int32_t> positions, Vector<int32_t> cu_seqlens, const std::string& pooling,
             int num_threads) {
        const Pooling how = choose<Pooling>({{"tokens", Pooling::kTokens},
                                             {"cls", Pooling::kCls},
                                             {"mean", Pooling::kMean},
                                             {"last_token", Pooling::kLast}},
                                            pooling);
        const size_t tokens = input_ids.shape(0);
        check(cu_seqlens.shape(0) >= 2, "a batch needs one sequence or more");
        check(positions.shape(0) == tokens && (!token_types || token_types->shape(0) == tokens),
              "ids, segments and positions must be equally many");
        const size_t num_sequences = cu_seqlens.shape(0) - 1;
        check(num_sequences <= tokens, "a sequence is empty");
        const size_t rows = how == Pooling::kTokens ? tokens : num_sequences;
        const size_t width = shape_.hidden_size;
        float* out = new float[rows * width];
        nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
        {
            nb::gil_scoped_release release;
            body_.run({data_of(input_ids), token_types ? data_of(*token_types) : nullptr,
                       data_of(positions), data_of(cu_seqlens), static_cast<int>(num_sequences),
                       tokens},
                      how, num_threads, out);
        }
        return Rows(out, {rows, width}, owner);
    }

    // (num_layers, 4, widest) largest magnitude of each input of each linear layer
    nb::ndarray<nb::numpy, float, nb::ndim<3>, nb::c_contig> measure_inputs(
        Vector<int32_t> input_ids, Vector<int32_t> positions, Vector<int32_t> cu_seqlens) {
        const size_t layers = shape_.num_layers, linears = polyrank::kNumLinears;
        float* out = new float[layers * linears * widest()];
        nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
        note_inputs(input_ids, positions, cu_seqlens, {out, nullptr});
        return {out, {layers, linears, widest()}, owner};
    }

    // (num_layers, 4, total_tokens, widest) each input of each linear layer
    nb::ndarray<nb::numpy, float, nb::ndim<4>, nb::c_contig> record_inputs(
        Vector<int32_t> input_ids, Vector<int32_t> positions, Vector<int32_t> cu_seqlens) {
        const size_t layers = shape_.num_layers, linears = polyrank::kNumLinears;
        const size_t tokens = input_ids.shape(0);
        float* out = new float[layers * linears * tokens * widest()];
        nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
        note_inputs(input_ids, positions, cu_seqlens, {nullptr, out});
        return {out, {layers, linears, tokens, widest()}, owner};
    }

    std::string isa() const { return kernels_->name; }
    bool multiplies_bf16() const { return kernels_->bf16_bytes == 2; }
    size_t packed_bytes() const { return body_.packed_bytes(); }

  private:
    size_t widest() const { return std::max(shape_.hidden_size, shape_.intermediate_size); }

    void note_inputs(const Vector<int32_t>& input_ids, const Vector<int32_t>& positions,
                     const Vector<int32_t>& cu_seqlens, const polyrank::Inputs& inputs) const {
        const size_t tokens = input_ids.shape(0);
        check(cu_seqlens.shape(0) >= 2 && cu_seqlens.shape(0) - 1 <= tokens,
              "a batch needs one sequence or more, none empty");
        check(positions.shape(0) == tokens, "ids and positions must be equally many");
        nb::gil_scoped_release release;
        body_.note_inputs({data_of(input_ids), nullptr, data_of(positions), data_of(cu_seqlens),
                           static_cast<int>(cu_seqlens.shape(0)) - 1, tokens},
                          inputs);
    }

    static const polyrank::Kernels* choose_or_throw(const std::string& isa, bool is_exact) {
        const polyrank::Kernels* kernels = polyrank::choose_kernels(isa.c_str());
        check(kernels != nullptr,
              "no such kernels for this processor (isa, or the variable POLYRANK_ISA)");
        return is_exact && kernels->exact != nullptr ? kernels->exact : kernels;
    }

    // Returns hidden_size where a body of these sizes can be; before memory is taken for one.
    static int checked_sizes(int hidden_size, int num_layers, int num_heads,
                             int intermediate_size) {
        check(num_layers > 0 && num_layers <= kMostLayers, "there must be 1 to 65,536 layers");
        check(hidden_size > 0 && hidden_size <= kMostWidth && intermediate_size > 0 &&
                  intermediate_size <= kMostWidth && hidden_size % 32 == 0 &&
                  intermediate_size % 32 == 0,
              "hidden_size and intermediate_size must be multiples of 32, 1,048,576 at most");
        check(num_heads > 0 && hidden_size % num_heads == 0 && hidden_size / num_heads % 16 == 0,
              "the head size must be a multiple of 16");
        return hidden_size;
    }

    static Linear linear(const std::string& name) {
        return choose<Linear>({{"qkv", polyrank::kQkv},
                               {"out", polyrank::kOut},
                               {"inner", polyrank::kInner},
                               {"outer", polyrank::kOuter}},
                              name);
    }

    Table table(const AnyMatrix& rows, const std::optional<AnyArray>& scales,
                const std::string& bits16) const {
        const bool is_int4 = rows.dtype() == nb::dtype<uint8_t>();
        check_width(rows.shape(1), is_int4 ? shape_.hidden_size / 2 : shape_.hidden_size);
        Table made;
        made.rows = rows.data();
        made.num_rows = rows.shape(0);
        if (rows.dtype() == nb::dtype<float>()) {
            made.type = TableType::kFloat32;
            made.rows = aligned<float>(rows);
        } else if (rows.dtype() == nb::dtype<int8_t>()) {
            check(scales && scales->dtype() == nb::dtype<float>() && scales->ndim() == 1 &&
                      scales->shape(0) == rows.shape(0),
                  "an int8 table needs one scale a row");
            made.type = TableType::kInt8;
            made.scales = aligned<float>(*scales);
        } else if (is_int4) {
            const size_t blocks = shape_.hidden_size / polyrank::kInt4Block;
            check(scales && scales->dtype() == nb::dtype<uint16_t>() && scales->ndim() == 2 &&
                      scales->shape(0) == rows.shape(0) && scales->shape(1) == blocks,
                  "an int4 table needs one float16 scale a block");
            made.type = TableType::kInt4;
            made.scales = aligned<uint16_t>(*scales);
        } else {
            // NumPy has no bfloat16: both kinds come as their bits
            check(rows.dtype() == nb::dtype<uint16_t>(), "tables are float32, 16 bits, int8 or int4");
            made.type = choose<TableType>(
                {{"F16", TableType::kFloat16}, {"BF16", TableType::kBfloat16}}, bits16);
            made.rows = aligned<uint16_t>(rows);
        }
        return made;
    }

    void check_layer(int layer) const {
        check(layer >= 0 && layer < shape_.num_layers, "there is no such layer");
    }
    static void check_width(size_t found, int wanted) {
        check(found == static_cast<size_t>(wanted), "an array has another width than the body");
    }

    polyrank::Shape shape_;
    Weights type_;  // of linear layers
    const polyrank::Kernels* kernels_;
    Body body_;
    std::vector<AnyMatrix> kept_;
    std::optional<AnyArray> kept_scales_;
    std::vector<Matrix<uint8_t>> kept_codes_;
    std::vector<Codebook> kept_codebooks_;
    std::optional<Matrix<uint16_t>> kept_coarse_;
    std::unique_ptr<polyrank::MixedRows> mixed_;
    std::vector<Panels> kept_panels_;
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels and forward pass of the native encoder.";
    m.def("cpu_features", &cpu_features,
          "Return which instructions the processor and the operating system let run.");
    m.def("compiled_paths", &compiled_paths,
          "Return the kernel paths of this build, from plain to fast.");
    m.def("usable_paths", &usable_paths,
          "Return the kernel paths that run on this processor, best first.");
    m.def("clean_rows", &clean_rows, nb::arg("rows"), nb::arg("center"), nb::arg("directions"),
          "Return rows less a center and their parts along directions, of unit length.");
    m.def("best_products", &best_products, nb::arg("rows"), nb::arg("queries"),
          nb::arg("documents"),
          "Return the largest product of each row of each pair with the rows of the other span.");
    nb::class_<NativeBody>(m, "NativeBody")
        .def(nb::init<int, int, int, int, float, const std::string&, const std::string&,
                      const std::string&>(),
             nb::kw_only(), nb::arg("hidden_size"), nb::arg("num_layers"), nb::arg("num_heads"),
             nb::arg("intermediate_size"), nb::arg("layer_norm_eps"), nb::arg("activation"),
             nb::arg("compute_dtype"), nb::arg("isa"))
        .def("set_tables", &NativeBody::set_tables, nb::arg("words"), nb::arg("positions"),
             nb::arg("types"), nb::arg("word_scales").none(), nb::arg("bits16"))
        .def("set_mixed_tables", &NativeBody::set_mixed_tables, nb::arg("blocks"),
             nb::arg("scales"), nb::arg("planes"), nb::arg("coarse"), nb::arg("codes"),
             nb::arg("codebooks"), nb::arg("num_words"), nb::arg("positions"), nb::arg("types"),
             nb::arg("bits16"))
        .def("set_embedding_norm", &NativeBody::set_embedding_norm, nb::arg("gamma"),
             nb::arg("beta"))
        .def("set_norm", &NativeBody::set_norm, nb::arg("layer"), nb::arg("which"),
             nb::arg("gamma"), nb::arg("beta"))
        .def("set_linear", &NativeBody::set_linear, nb::arg("layer"), nb::arg("name"),
             nb::arg("weights"), nb::arg("biases"), nb::arg("multipliers").none(), nb::arg("num_threads"))
        .def("set_linear_s8", &NativeBody::set_linear_s8, nb::arg("layer"), nb::arg("name"),
             nb::arg("weights"), nb::arg("scales"), nb::arg("bias"), nb::arg("multipliers").none())
        .def("set_linear_panels", &NativeBody::set_linear_panels, nb::arg("layer"), nb::arg("name"),
             nb::arg("parts"), nb::arg("scales"), nb::arg("bias"), nb::arg("multipliers").none())
        .def("set_linear_blocks", &NativeBody::set_linear_blocks, nb::arg("layer"), nb::arg("name"),
             nb::arg("weights"), nb::arg("scales"), nb::arg("biases"))
        .def("run", &NativeBody::run, nb::arg("input_ids"), nb::arg("token_types").none(),
             nb::arg("positions"), nb::arg("cu_seqlens"), nb::arg("pooling"),
             nb::arg("num_threads"))
        .def("measure_inputs", &NativeBody::measure_inputs, nb::arg("input_ids"),
             nb::arg("positions"), nb::arg("cu_seqlens"))
        .def("record_inputs", &NativeBody::record_inputs, nb::arg("input_ids"),
             nb::arg("positions"), nb::arg("cu_seqlens"))
        .def_prop_ro("isa", &NativeBody::isa)
        .def_prop_ro("multiplies_bfloat16", &NativeBody::multiplies_bf16)
        .def_prop_ro("packed_bytes", &NativeBody::packed_bytes);
}
