/** What a checkpoint's small files say of it. */

import { CapabilityError, CheckpointError, LoadError } from "./errors.js";
import type { Folder } from "./files.js";

type Json = Record<string, unknown>;

/** Number of an activation in the native encoder. */
const ACTIVATIONS: Readonly<Record<string, number>> = {
  gelu: 1,
  gelu_new: 2,
  gelu_pytorch_tanh: 2,
  relu: 3,
  silu: 4,
};

/** The transformer. */
export interface BodySpec {
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly intermediateSize: number;
  readonly layerNormEps: number;
  readonly activation: number;
  readonly vocabSize: number;
  readonly numPositions: number;
  readonly numTypes: number;
  /** Row of the position table for the first token: 0 for BERT, padding id + 1 for RoBERTa. */
  readonly positionOffset: number;
  readonly padTokenId: number;
}

/** Names of the tensors of a linear layer. */
export interface DenseSpec {
  readonly weight: string;
  readonly bias: string | null;
  readonly nonlinearity: string;
}

/** Features of a pair that a head of late interaction may take. */
export type MatchFeature =
  | "sharp_match"
  | "plain_match"
  | "least_match"
  | "reverse_match"
  | "clean_cosine"
  | "document_length";

const FEATURES: readonly string[] = [
  "sharp_match", "plain_match", "least_match", "reverse_match", "clean_cosine", "document_length",
];

/** A head of late interaction. */
export interface HeadSpec {
  readonly center: string;
  readonly directions: string | null;
  readonly weight: DenseSpec | null;
  readonly features: readonly MatchFeature[];
  readonly layers: readonly DenseSpec[];
  readonly activation: "sigmoid" | "softmax" | "identity";
  readonly labels: readonly string[];
}

/** A checkpoint. */
export interface Spec {
  readonly body: BodySpec;
  readonly maxLength: number;
  readonly pooling: "mean" | "cls";
  readonly isNormalized: boolean;
  readonly prompts: Readonly<Record<"query" | "document", string>>;
  readonly rerank: HeadSpec | null;
  readonly classify: HeadSpec | null;
  readonly calibration: Json | null;
}

/**
 * Reads config.json and what lies beside it.
 *
 * @throws LoadError if config.json is not there.
 * @throws CheckpointError if a file says what cannot be.
 * @throws CapabilityError if the checkpoint is of a kind that is not read here.
 */
export async function readSpec(folder: Folder): Promise<Spec> {
  const [config, settings, modules, prompts, calibration] = await Promise.all(
    [
      "config.json",
      "sentence_bert_config.json",
      "modules.json",
      "config_sentence_transformers.json",
      "polyrank_calibration.json",
    ].map((name) => folder.json(name)),
  );
  const where = folder.address("config.json").href;
  if (!config) throw new LoadError(`${where} is not there. Is this the folder of a checkpoint?`);
  const body = bodyOf(config, where);
  const limit = body.numPositions - body.positionOffset;
  const told = Number(settings?.["max_seq_length"] ?? limit);
  const heads = (config["polyrank_heads"] ?? {}) as Json;
  return {
    body,
    maxLength: Math.min(told, limit),
    pooling: await poolingOf(folder, modules ?? null),
    isNormalized: modulesOf(modules ?? null).some(({ type }) => type.endsWith(".Normalize")),
    prompts: promptsOf((prompts?.["prompts"] ?? {}) as Json),
    rerank: headOf(heads["rerank"], where),
    classify: headOf(heads["classify"], where),
    calibration: calibration ?? null,
  };
}

function bodyOf(config: Json, where: string): BodySpec {
  const whole = (name: string): number => {
    const value = config[name];
    if (Number.isInteger(value) && (value as number) > 0) return value as number;
    throw new CheckpointError(`${where}: ${name} is ${JSON.stringify(value)}; it must be a whole number from 1.`);
  };
  const type = String(config["model_type"]);
  if (!["bert", "roberta", "xlm-roberta", "camembert"].includes(type)) {
    throw new CapabilityError(`${where} is of model_type ${type}; BERT, RoBERTa and XLM-R are read.`);
  }
  const activation = ACTIVATIONS[String(config["hidden_act"])];
  if (activation === undefined || (config["position_embedding_type"] ?? "absolute") !== "absolute") {
    throw new CapabilityError(`${where}: hidden_act or position_embedding_type is not one that is read.`);
  }
  const padTokenId = Number(config["pad_token_id"] ?? 0);
  const body = {
    hiddenSize: whole("hidden_size"),
    numLayers: whole("num_hidden_layers"),
    numHeads: whole("num_attention_heads"),
    intermediateSize: whole("intermediate_size"),
    layerNormEps: Number(config["layer_norm_eps"] ?? 1e-12),
    activation,
    vocabSize: whole("vocab_size"),
    numPositions: whole("max_position_embeddings"),
    numTypes: whole("type_vocab_size"),
    positionOffset: type === "bert" ? 0 : padTokenId + 1,
    padTokenId,
  };
  const headSize = body.hiddenSize / body.numHeads;
  if (body.hiddenSize % 32 !== 0 || body.intermediateSize % 32 !== 0 || headSize % 16 !== 0) {
    throw new CapabilityError(
      `${where}: widths must be multiples of 32 and heads of 16 values; they are ` +
        `${body.hiddenSize}, ${body.intermediateSize} and ${headSize}.`,
    );
  }
  return body;
}

interface ModuleEntry {
  readonly path: string;
  readonly type: string;
}

function modulesOf(content: unknown): readonly ModuleEntry[] {
  if (!Array.isArray(content)) return [];
  return content.map(({ path, type }: Json) => ({ path: String(path), type: String(type) }));
}

async function poolingOf(folder: Folder, modules: unknown): Promise<"mean" | "cls"> {
  const entries = modulesOf(modules);
  const other = entries.find(({ type }) => !/\.(Transformer|Pooling|Normalize)$/.test(type));
  if (other !== undefined) {
    throw new CapabilityError(`modules.json names ${other.type}, which polyrank-web does not run.`);
  }
  const pooling = entries.find(({ type }) => type.endsWith(".Pooling"));
  const config = pooling === undefined ? null : await folder.json(`${pooling.path}/config.json`);
  if (config === null) return "cls";
  if (config["pooling_mode_mean_tokens"] === true) return "mean";
  if (config["pooling_mode_cls_token"] === true) return "cls";
  throw new CapabilityError(`${pooling?.path ?? ""}/config.json: mean and cls pooling are read, nothing else.`);
}

function promptsOf(named: Json): Readonly<Record<"query" | "document", string>> {
  const first = (...names: string[]): string =>
    names.map((name) => named[name]).find((text) => typeof text === "string" && text !== "") as string ?? "";
  return {
    query: first("query", "search_query"),
    document: first("document", "passage", "corpus", "search_document"),
  };
}

function headOf(given: unknown, where: string): HeadSpec | null {
  if (given === undefined || given === null) return null;
  const head = given as Json;
  const late = head["late_interaction"] as Json | undefined;
  if (late === undefined) return null;
  const features = late["features"] as string[];
  const odd = features.find((name) => !FEATURES.includes(name));
  if (odd !== undefined) throw new CheckpointError(`${where}: there is no feature ${odd}.`);
  const activation = head["activation"];
  if (activation !== "sigmoid" && activation !== "softmax" && activation !== "identity") {
    throw new CheckpointError(`${where}: there is no activation ${JSON.stringify(activation)}.`);
  }
  return {
    center: String(late["center"]),
    directions: typeof late["directions"] === "string" ? late["directions"] : null,
    weight: late["weight"] === undefined ? null : denseOf(late["weight"] as Json),
    features: features as MatchFeature[],
    layers: (head["layers"] as Json[]).map(denseOf),
    activation,
    labels: head["labels"] as string[],
  };
}

function denseOf(given: Json): DenseSpec {
  return {
    weight: String(given["weight"]),
    bias: typeof given["bias"] === "string" ? given["bias"] : null,
    nonlinearity: String(given["nonlinearity"] ?? "identity"),
  };
}
