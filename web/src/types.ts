/** What callers give and get. */

import type { LoadProgress } from "./files.js";

/** A text, or an object with one as `text`, `content` or `page_content`. */
export type Document =
  | string
  | { readonly text: string }
  | { readonly content: string }
  | { readonly page_content: string };

/** One document of a ranking. */
export interface RankedDocument<T extends Document = Document> {
  /** Position of the document in the input. */
  readonly index: number;
  /** Relevance after the model's activation: 0 to 1, or the cosine where an embedder ranks. */
  readonly score: number;
  /** The raw value before the activation. */
  readonly logit: number;
  /** How probable it is that the document answers, 0 to 1; null without a calibration. */
  readonly probability: number | null;
  /** Whether tokens of the query or the document were not read. */
  readonly isTruncated: boolean;
  /** The document as it was given. */
  readonly document: T;
}

/** The label of a query and a passage. */
export interface Classification {
  /** The label with the highest logit. */
  readonly label: string;
  /** What the checkpoint's activation gives it, 0 to 1. */
  readonly score: number;
  /** What it gives every label. */
  readonly probabilities: Readonly<Record<string, number>>;
  /** Whether tokens were cut off. */
  readonly isTruncated: boolean;
  /** How probable it is that the label is right, calibrated; null without a calibration. */
  readonly probability: number | null;
  /** The same of every label. */
  readonly calibratedProbabilities: Readonly<Record<string, number>> | null;
}

/** Settings of any call that computes. */
export interface CallOptions {
  /** Stops computing between two batches; the promise then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called with tokens done and tokens in all. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Settings of `rank`. */
export interface RankOptions extends CallOptions {
  /** How many documents to return; all unless given. */
  readonly topN?: number | undefined;
  /** Leave out documents that answer with less probability, 0 to 1. */
  readonly minProbability?: number | undefined;
}

/** Settings of `embed`. */
export interface EmbedOptions extends CallOptions {
  /** Whose prompt goes before each text: "query" for questions, "document" for what is searched. */
  readonly inputType?: "query" | "document" | undefined;
}

/** Settings of loading. */
export interface LoadOptions {
  /** Most tokens of a text, special tokens included; the checkpoint's limit unless given. */
  readonly maxLength?: number | undefined;
  /** Stops loading; the promise then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called as bytes arrive. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Name of the cache in the browser's Cache API; null keeps nothing. */
  readonly cacheName?: string | null | undefined;
  /** Where polyrank.wasm lies; beside this package's other files unless given. */
  readonly wasm?: string | URL | undefined;
}

/** What is loaded. */
export interface ModelInfo {
  readonly canRank: boolean;
  readonly canClassify: boolean;
  /** Labels of `classify`, in the checkpoint's order. */
  readonly labels: readonly string[];
  /** Values of a vector of `embed`. */
  readonly dimensions: number;
  readonly maxLength: number;
  /** Memory that the encoder holds, in bytes. */
  readonly memoryBytes: number;
  /** Milliseconds from the call of `load` to its end. */
  readonly loadMilliseconds: number;
  readonly notes: readonly string[];
}

/** What a model does, in this thread or in a worker. */
export interface Polyrank {
  readonly info: ModelInfo;
  /**
   * Returns documents by relevance to a query, best first; equal ones keep their order.
   *
   * A document longer than the window is read as far as the window goes.
   *
   * @throws InputError if the query or a document cannot be read.
   * @throws ConfigError if a setting does not fit.
   * @throws CapabilityError if `minProbability` is given and the checkpoint is not calibrated.
   * @throws EncoderError if memory runs out.
   */
  rank<T extends Document>(
    query: string, documents: readonly T[], options?: RankOptions,
  ): Promise<RankedDocument<T>[]>;
  /**
   * Returns a vector a text.
   *
   * @throws InputError if a text cannot be read.
   * @throws EncoderError if memory runs out.
   */
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[]>;
  /**
   * Returns how each passage stands to a query: in the model that ships, relevant (it answers),
   * neutral (on the topic) or irrelevant.
   *
   * @throws InputError if the query or a passage cannot be read.
   * @throws CapabilityError if the checkpoint has no such head.
   * @throws EncoderError if memory runs out.
   */
  classify(query: string, passages: readonly Document[], options?: CallOptions): Promise<Classification[]>;
  /** Frees memory. Calls reject afterwards. */
  close(): void;
}
