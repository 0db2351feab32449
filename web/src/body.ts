/** The transformer in the module: its weights and the forward pass on packed sequences. */

import type { BodySpec } from "./checkpoint.js";
import { CapabilityError, CheckpointError, EncoderError } from "./errors.js";
import type { Address, Module } from "./module.js";
import type { Tensor, Weights } from "./safetensors.js";

/** How token rows become one row a text. */
export type Pooling = "tokens" | "cls" | "mean";

const POOLINGS: Readonly<Record<Pooling, number>> = { tokens: 0, cls: 1, mean: 2 };
const TYPES: Readonly<Record<string, number>> = { F32: 0, F16: 1, BF16: 2 };
const MIXED = 5;
const CODEWORDS = 256;
const BLOCK = 32;
const WORDS = "embeddings.word_embeddings.weight";
const POSITIONS = "embeddings.position_embeddings.weight";
const SEGMENTS = "embeddings.token_type_embeddings.weight";
/** Linear layers in the order in which they run, and the layers of the checkpoint they consist of. */
const LINEARS: readonly (readonly string[])[] = [
  ["attention.self.query", "attention.self.key", "attention.self.value"],
  ["attention.output.dense"],
  ["intermediate.dense"],
  ["output.dense"],
];
const NORMS = ["attention.output.LayerNorm", "output.LayerNorm"];

/** A body whose tables are read where the file lies in memory. */
export class Body {
  private readonly address: Address;
  private readonly prefix: string;

  /**
   * @throws CheckpointError if a tensor is absent or broken.
   * @throws CapabilityError if weights are stored in a way that is not read here.
   */
  constructor(
    private readonly module: Module,
    private readonly weights: Weights,
    readonly spec: BodySpec,
  ) {
    const prefix = ["", "bert.", "roberta."].find((each) => weights.has(each + WORDS));
    if (prefix === undefined) throw new CheckpointError(`${weights.file} holds no word embeddings.`);
    this.prefix = prefix;
    this.address = module.guarded(() =>
      module.call.polyrank_body(
        spec.hiddenSize, spec.numLayers, spec.numHeads, spec.intermediateSize,
        spec.layerNormEps, spec.activation,
      ),
    );
    this.setTables();
    const norm = (name: string): [Address, Address] => [
      this.floats(`${name}.weight`, [spec.hiddenSize]).address,
      this.floats(`${name}.bias`, [spec.hiddenSize]).address,
    ];
    module.call.polyrank_set_embedding_norm(this.address, ...norm("embeddings.LayerNorm"));
    for (let layer = 0; layer < spec.numLayers; ++layer) {
      const at = `encoder.layer.${layer}.`;
      LINEARS.forEach((parts, which) => this.setLinear(layer, which, parts.map((part) => at + part)));
      NORMS.forEach((name, which) => {
        module.call.polyrank_set_norm(this.address, layer, which, ...norm(at + name));
      });
    }
  }

  /**
   * Runs sequences of token ids.
   *
   * @param sequences One or more, none empty, special tokens included.
   * @param pooling What is made of the token rows.
   * @param use Given the address of the rows, (total tokens or sequences, hiddenSize) float32, which
   *     are gone when it returns.
   */
  run<T>(sequences: readonly Int32Array[], pooling: Pooling, use: (rows: Address) => T): T {
    const { module, spec } = this;
    const bounds = new Int32Array(sequences.length + 1);
    sequences.forEach((ids, i) => {
      bounds[i + 1] = (bounds[i] as number) + ids.length;
    });
    const total = bounds[sequences.length] as number;
    const ids = new Int32Array(total);
    sequences.forEach((each, i) => ids.set(each, bounds[i]));
    this.check(sequences);
    const rows = pooling === "tokens" ? total : sequences.length;
    const given = [ids, this.positions(sequences, total), bounds].map((values) => module.put(values));
    try {
      return module.borrow(rows * spec.hiddenSize * 4, (out) => {
        const [first, second, third] = given as [Address, Address, Address];
        module.guarded(() =>
          module.call.polyrank_run(
            this.address, first, second, third, sequences.length, POOLINGS[pooling], out,
          ),
        );
        return use(out);
      });
    } finally {
      given.forEach((address) => module.free(address));
    }
  }

  private check(sequences: readonly Int32Array[]): void {
    const most = this.spec.numPositions - this.spec.positionOffset;
    for (const ids of sequences) {
      const isInside = ids.every((id) => id >= 0 && id < this.spec.vocabSize);
      if (!isInside || ids.length === 0 || ids.length > most) {
        throw new EncoderError(`a sequence of ${ids.length} ids is too long, empty, or has an unknown id.`);
      }
    }
  }

  private positions(sequences: readonly Int32Array[], total: number): Int32Array {
    const { positionOffset, padTokenId } = this.spec;
    const places = new Int32Array(total);
    let at = 0;
    for (const ids of sequences) {
      let ordinal = 0;
      for (const id of ids) {
        // RoBERTa counts from the padding index on and leaves out padding ids
        const isCounted = positionOffset === 0 || id !== padTokenId;
        places[at++] = isCounted ? positionOffset + ordinal++ : positionOffset - 1;
      }
    }
    return places;
  }

  private floats(name: string, shape: readonly number[]): Tensor {
    return this.weights.floats(this.prefix + name, shape);
  }

  private setTables(): void {
    const { hiddenSize, vocabSize, numPositions, numTypes } = this.spec;
    const isMixed = this.weights.has(`${this.prefix}${WORDS}_tiers`);
    if (isMixed) this.setMixed();
    const table = (name: string, rows: number): [Address, number, number] => {
      const found = this.weights.get(this.prefix + name, Object.keys(TYPES), [rows, hiddenSize]);
      return [found.address, TYPES[found.dtype] as number, rows];
    };
    const [words, type] = isMixed ? [0, MIXED] : table(WORDS, vocabSize);
    this.module.call.polyrank_set_tables(
      this.address, words, 0, type, vocabSize,
      ...table(POSITIONS, numPositions), ...table(SEGMENTS, numTypes),
    );
  }

  /** Words in four tiers: 4-bit blocks, and rows of product codes. */
  private setMixed(): void {
    const { module, weights } = this;
    const { hiddenSize, vocabSize } = this.spec;
    const name = this.prefix + WORDS;
    const blocks = weights.get(name, ["U8"], [null, hiddenSize / 2]);
    const numBlocks = blocks.shape[0] as number;
    const scales = weights.get(`${name}_scale`, ["F16"], [numBlocks, hiddenSize / BLOCK]);
    const planeBytes = 8 * Math.ceil(vocabSize / 64);
    const planes = weights.get(`${name}_tiers`, ["U8"], [2, planeBytes]);
    const coarse = weights.get(`${name}_coarse`, ["F16"], [CODEWORDS, hiddenSize]);
    const coded = [1, 2, 3].flatMap((tier) => {
      const book = weights.get(`${name}_codebook_${tier}`, ["F16"], [null, CODEWORDS, null]);
      const [parts, , width] = book.shape as [number, number, number];
      const codes = weights.get(`${name}_codes_${tier}`, ["U8"], [null, 1 + parts]);
      if (parts * width !== hiddenSize) {
        throw new CheckpointError(`${book.name} in ${weights.file} is of another width than the rows.`);
      }
      return [codes.address, book.address, codes.shape[0] as number, parts];
    });
    const described = module.put(Uint32Array.from(coded));
    const fits = module.guarded(() =>
      module.call.polyrank_set_mixed(
        this.address, blocks.address, scales.address, numBlocks, planes.address, planeBytes,
        vocabSize, coarse.address, described,
      ),
    );
    module.free(described);
    if (fits === 0) {
      throw new CheckpointError(
        `${name}_tiers in ${weights.file} puts other numbers of rows into tiers than they store.`,
      );
    }
  }

  private setLinear(layer: number, which: number, names: readonly string[]): void {
    const { module, weights, prefix } = this;
    const { hiddenSize, intermediateSize } = this.spec;
    const inputs = which === 3 ? intermediateSize : hiddenSize;
    const outputs = which === 2 ? intermediateSize : hiddenSize;
    const scaled = names.map((name) => `${prefix}${name}.weight_scale`);
    if (!scaled.every((name) => weights.has(name) && weights.get(name, ["F16", "F32"], [outputs, null]).dtype === "F16")) {
      throw new CapabilityError(
        `${prefix}${names[0] ?? ""} in ${weights.file} is not stored in 4-bit blocks. ` +
          "Make such a folder: polyrank compress quantize MODEL OUT --weights int4",
      );
    }
    const addresses = (find: (name: string) => Tensor): Address =>
      module.put(Uint32Array.from(names, (name) => find(prefix + name).address));
    const lists = [
      addresses((name) => weights.get(`${name}.weight`, ["U8"], [outputs, inputs / 2])),
      addresses((name) => weights.get(`${name}.weight_scale`, ["F16"], [outputs, inputs / BLOCK])),
      addresses((name) => weights.floats(`${name}.bias`, [outputs])),
    ] as const;
    module.guarded(() =>
      module.call.polyrank_set_linear_blocks(
        this.address, layer, which, names.length, (outputs * inputs) / BLOCK, ...lists,
        this.multipliers(names, inputs),
      ),
    );
    lists.forEach((address) => module.free(address));
  }

  /** Where the factors of a layer's inputs lie; 0 where there are none. */
  private multipliers(names: readonly string[], inputs: number): Address {
    const { module, weights, prefix } = this;
    const told = names.map((name) => `${prefix}${name}.input_multiplier`);
    if (!told.some((name) => weights.has(name))) return 0;
    const [first, ...rest] = told.map((name) => weights.floats(name, [inputs]));
    const values = (tensor: Tensor): Float32Array => module.floats(tensor.address, inputs);
    const own = values(first as Tensor);
    const agrees = rest.every((tensor) => values(tensor).every((value, i) => value === own[i]));
    if (!agrees || !own.every((value) => value > 0)) {
      throw new CheckpointError(
        `${told[0] ?? ""} in ${weights.file} holds 0, or differs from its neighbours'. Quantise it again.`,
      );
    }
    return (first as Tensor).address;
  }
}
