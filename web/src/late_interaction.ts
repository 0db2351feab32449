/**
 * Scoring of pairs by the token rows of texts that were read apart (late interaction).
 *
 * The features and their arithmetic are those of `polyrank.tasks.late_interaction`. Rows are cleaned
 * and matched by the native kernels, whose bits are those of the portable path; what follows is
 * computed in double precision, where Python has single: logits agree within 1e-5.
 */

import type { DenseSpec, HeadSpec, MatchFeature } from "./checkpoint.js";
import { CheckpointError } from "./errors.js";
import type { Address, Module } from "./module.js";
import type { Weights } from "./safetensors.js";

const LEAST_SHARE = 4; // least_match is over one in so many of a query's tokens
const MOST_CLEAN_ROWS = 4; // that the kernel may take at once

/** Clean rows of a text in memory of their own. */
export interface CleanRows {
  readonly address: Address;
  readonly count: number;
}

interface Dense {
  readonly weight: Float32Array;
  readonly bias: Float32Array;
  readonly nonlinearity: string;
}

/** What `matches` gives: how well the tokens of each text are matched by the other. */
export interface Matches {
  /** Largest product of each query row with a row of the document. */
  readonly byQuery: Float32Array;
  /** Largest product of each document row with a row of the query. */
  readonly byDocument: Float32Array;
}

/** A query, ready to be compared. */
export interface Query {
  readonly rows: CleanRows;
  /** How much each of its rows counts, by head. */
  readonly weights: ReadonlyMap<Head, Float64Array>;
}

/** Takes center and directions out of rows, and compares rows. Shared by heads that agree on both. */
export class Matcher {
  private readonly center: Address;
  private readonly directions: Address;
  private readonly along: Address;
  private readonly numDirections: number;

  constructor(
    private readonly module: Module,
    weights: Weights,
    spec: HeadSpec,
    readonly width: number,
  ) {
    this.center = weights.floats(spec.center, [width]).address;
    const directions = spec.directions === null ? null : weights.floats(spec.directions, [null, width]);
    this.numDirections = directions?.shape[0] ?? 0;
    this.directions = directions?.address ?? this.center;
    this.along = module.take(MOST_CLEAN_ROWS * Math.max(1, this.numDirections) * 4);
  }

  /** Returns rows without center and directions, of unit length, in memory that the caller frees. */
  clean(rows: Address, count: number): CleanRows {
    const { module } = this;
    const address = module.take(count * this.width * 4);
    module.call.polyrank_clean(
      rows, count, this.width, this.center, this.directions, this.numDirections, this.along, address,
    );
    return { address, count };
  }

  /** Returns how well two texts' rows match; each has one row or more. */
  match(query: CleanRows, document: CleanRows): Matches {
    const { module } = this;
    return module.borrow((query.count + document.count) * 4, (out) => {
      const second = out + query.count * 4;
      module.call.polyrank_match(
        query.address, query.count, document.address, document.count, this.width, out, second,
      );
      return {
        byQuery: module.floats(out, query.count).slice(),
        byDocument: module.floats(second, document.count).slice(),
      };
    });
  }

  /** Returns a copy of clean rows, (count, width). */
  values(rows: CleanRows): Float32Array {
    return this.module.floats(rows.address, rows.count * this.width).slice();
  }
}

/** From the matches of a pair to logits. */
export class Head {
  private readonly layers: readonly Dense[];
  private readonly weight: Dense | null;

  constructor(
    weights: Weights,
    readonly spec: HeadSpec,
    private readonly matcher: Matcher,
  ) {
    let width = spec.features.length;
    this.layers = spec.layers.map((layer) => {
      const loaded = loadDense(weights, layer, width);
      width = loaded.bias.length;
      return loaded;
    });
    if (width !== spec.labels.length) {
      throw new CheckpointError(`a head gives ${width} values for the ${spec.labels.length} labels of config.json.`);
    }
    this.weight = spec.weight === null ? null : loadDense(weights, spec.weight, matcher.width);
  }

  /** Returns how much each row of a query counts; all alike where the head weighs none. */
  weigh(rows: CleanRows): Float64Array {
    const { weight } = this;
    if (weight === null) return new Float64Array(rows.count).fill(1);
    const values = this.matcher.values(rows);
    const { width } = this.matcher;
    return Float64Array.from({ length: rows.count }, (_, i) => {
      const row = values.subarray(i * width, (i + 1) * width);
      const value = dense(weight, row)[0] as number;
      return Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));
    });
  }

  /** Returns the logits of a pair, one a label. */
  logits(query: Query, document: CleanRows, matches: Matches): Float32Array {
    const features = this.spec.features.map((name) => this.feature(name, query, document, matches));
    const last = this.layers.reduce<ArrayLike<number>>(
      (row, layer) => dense(layer, row),
      Float32Array.from(features),
    );
    return Float32Array.from(last);
  }

  /** Returns scores of logits by the head's activation. */
  activate(logits: Float32Array): Float32Array {
    if (this.spec.activation === "sigmoid") return logits.map(sigmoid);
    return this.spec.activation === "softmax" ? Float32Array.from(softmax(logits)) : logits;
  }

  private feature(name: MatchFeature, query: Query, document: CleanRows, matches: Matches): number {
    const { byQuery, byDocument } = matches;
    switch (name) {
      case "sharp_match": {
        const weights = query.weights.get(this) as Float64Array;
        const sharp = byQuery.map((match) => Math.max(match, 0) * Math.fround(Math.sqrt(Math.max(match, 0))));
        const sum = sharp.reduce((so_far, value, i) => so_far + value * (weights[i] as number), 0);
        return sum / weights.reduce((so_far, value) => so_far + value, 0);
      }
      case "plain_match":
        return mean(byQuery);
      case "least_match":
        return mean(byQuery.toSorted().subarray(0, Math.ceil(byQuery.length / LEAST_SHARE)));
      case "reverse_match":
        return mean(byDocument);
      case "clean_cosine":
        return cosine(this.meanRow(query.rows), this.meanRow(document));
      case "document_length":
        return Math.log(document.count);
    }
  }

  private meanRow(rows: CleanRows): Float64Array {
    const { width } = this.matcher;
    const values = this.matcher.values(rows);
    const sums = new Float64Array(width);
    values.forEach((value, i) => {
      sums[i % width] = (sums[i % width] as number) + value;
    });
    return sums.map((sum) => sum / rows.count);
  }
}

function loadDense(weights: Weights, spec: DenseSpec, inputs: number): Dense {
  const weight = weights.values(spec.weight, [null, inputs]);
  const outputs = weight.length / inputs;
  const bias = spec.bias === null ? new Float32Array(outputs) : weights.values(spec.bias, [outputs]);
  if (!(spec.nonlinearity in NONLINEARITIES)) {
    throw new CheckpointError(`config.json names a nonlinearity ${spec.nonlinearity}, which is not read.`);
  }
  return { weight, bias, nonlinearity: spec.nonlinearity };
}

function dense(layer: Dense, row: ArrayLike<number>): Float64Array {
  const { weight, bias } = layer;
  const apply = NONLINEARITIES[layer.nonlinearity] as (value: number) => number;
  return Float64Array.from(bias, (start, output) => {
    let sum = start;
    for (let i = 0; i < row.length; ++i) {
      sum += (weight[output * row.length + i] as number) * (row[i] as number);
    }
    return apply(sum);
  });
}

const NONLINEARITIES: Readonly<Record<string, (value: number) => number>> = {
  identity: (value) => value,
  tanh: Math.tanh,
  gelu: (value) => 0.5 * value * (1 + erf(value * Math.SQRT1_2)),
  gelu_tanh: (value) =>
    0.5 * value * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (value + 0.044715 * value ** 3))),
  relu: (value) => Math.max(value, 0),
  silu: (value) => value * sigmoid(value),
  sigmoid,
};

/** The error function to double precision: its power series near 0, a continued fraction beyond. */
export function erf(value: number): number {
  const x = Math.abs(value);
  if (x > 6) return Math.sign(value);
  if (x < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; ++n) {
      term *= -(x * x) / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(value) * (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let k = 60; k >= 1; --k) fraction = k / 2 / (x + fraction);
  return Math.sign(value) * (1 - Math.exp(-x * x) / (Math.sqrt(Math.PI) * (x + fraction)));
}

/** 1 / (1 + e^-x) without overflow. */
export function sigmoid(value: number): number {
  const small = Math.exp(-Math.abs(value));
  return value >= 0 ? 1 / (1 + small) : small / (1 + small);
}

/** Probabilities in proportion to e^x, without overflow. */
export function softmax(values: ArrayLike<number>): Float64Array {
  const most = Math.max(...Array.from(values));
  const powers = Float64Array.from(values, (value) => Math.exp(value - most));
  const sum = powers.reduce((so_far, value) => so_far + value, 0);
  return powers.map((value) => value / sum);
}

/** The cosine of two vectors; 0 where one is zeros. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [product, first, second] = [0, 0, 0];
  for (let i = 0; i < a.length; ++i) {
    const [x, y] = [a[i] as number, b[i] as number];
    product += x * y;
    first += x * x;
    second += y * y;
  }
  const lengths = Math.max(Math.sqrt(first), 1e-12) * Math.max(Math.sqrt(second), 1e-12);
  return Math.max(-1, Math.min(1, product / lengths));
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
