/** Probabilities by a checkpoint's calibration, as `polyrank.calibration` has them. */

import { CheckpointError } from "./errors.js";
import { sigmoid, softmax } from "./late_interaction.js";

type Json = Record<string, unknown>;

const VERSION = 1;
const SIGMOID_SHARE = 1e-3; // of Platt's map in an isotonic one

/** What a calibration makes of logits. */
export interface Calibration {
  /** From the logit of a pair to the probability that the document answers; null where there is none. */
  readonly rerank: ((logit: number) => number) | null;
  /** From the logits of labels to their probabilities; null where there is none. */
  readonly classify: ((logits: ArrayLike<number>) => Float64Array) | null;
  /** What of the file is not used here, for people. */
  readonly notes: readonly string[];
}

/**
 * Reads polyrank_calibration.json.
 *
 * @param content The file's; null where there is none.
 * @param labels The classify head's labels.
 * @throws CheckpointError if it is of another version or of other labels.
 */
export function readCalibration(content: Json | null, labels: readonly string[]): Calibration {
  if (content === null) return { rerank: null, classify: null, notes: [] };
  if (content["version"] !== VERSION) {
    throw new CheckpointError(`polyrank_calibration.json is of version ${String(content["version"])}; ${VERSION} is read.`);
  }
  const rerank = content["rerank"] as Json | undefined;
  const classify = content["classify"] as Json | undefined;
  const isShifted = Object.keys((rerank?.["offsets"] ?? {}) as Json).length > 0;
  return {
    rerank: rerank === undefined || isShifted ? null : rankMap(rerank),
    classify: classify === undefined ? null : classMap(classify, labels),
    notes: isShifted
      ? ["The calibration of rankings goes by lengths or scripts, so there are no probabilities here."]
      : [],
  };
}

function rankMap(content: Json): (logit: number) => number {
  const [slope, intercept] = [number(content, "slope"), number(content, "intercept")];
  const map = curve(content);
  return (logit) => map(slope * logit + intercept);
}

function curve(content: Json): (shifted: number) => number {
  switch (content["method"]) {
    case "platt":
      return sigmoid;
    case "beta": {
      const beta = content["beta"] as Json;
      const [low, high, own] = [number(beta, "low"), number(beta, "high"), number(beta, "intercept")];
      return (shifted) => sigmoid(high * softplus(shifted) - low * softplus(-shifted) + own);
    }
    case "isotonic": {
      const knots = content["isotonic"] as Json[];
      const places = knots.map((knot) => number(knot, "at"));
      const values = knots.map((knot) => number(knot, "probability"));
      return (shifted) =>
        (1 - SIGMOID_SHARE) * between(shifted, places, values) + SIGMOID_SHARE * sigmoid(shifted);
    }
    default:
      throw new CheckpointError(`polyrank_calibration.json has an unknown method ${String(content["method"])}.`);
  }
}

function classMap(content: Json, labels: readonly string[]): (logits: ArrayLike<number>) => Float64Array {
  const own = content["labels"] as string[];
  const [scales, biases] = [content["scales"] as number[], content["biases"] as number[]];
  if (own.join("\n") !== labels.join("\n") || scales.length !== labels.length || biases.length !== labels.length) {
    throw new CheckpointError(`polyrank_calibration.json speaks of the labels ${own.join(", ")}, not of ${labels.join(", ")}.`);
  }
  return (logits) =>
    softmax(Float64Array.from(logits, (logit, i) => logit * (scales[i] as number) + (biases[i] as number)));
}

function number(content: Json, name: string): number {
  const value = content[name];
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new CheckpointError(`polyrank_calibration.json: ${name} is ${JSON.stringify(value)}; it must be a number.`);
}

function softplus(value: number): number {
  return Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));
}

/** Straight lines between knots, level beyond the outermost. */
function between(at: number, places: readonly number[], values: readonly number[]): number {
  const next = places.findIndex((place) => place > at);
  if (next === 0) return values[0] as number;
  if (next < 0) return values.at(-1) as number;
  const [x0, x1] = [places[next - 1] as number, places[next] as number];
  const [y0, y1] = [values[next - 1] as number, values[next] as number];
  return y0 + ((at - x0) / (x1 - x0)) * (y1 - y0);
}
