/**
 * polyrank in the browser: rerank, embed and classify text in 100+ languages, offline once loaded.
 *
 * In a page, `startWorker` keeps the page quick; `Model.load` computes in the calling thread, in a
 * worker of your own or under Node.
 */

export { startWorker, type WorkerOptions } from "./client.js";
export {
  CapabilityError, CheckpointError, ConfigError, EncoderError, InputError, LoadError, PolyrankError,
  UnsupportedError,
} from "./errors.js";
export { clearCache, DEFAULT_CACHE, type LoadProgress } from "./files.js";
export { Model } from "./model.js";
export { checkSupport } from "./module.js";
export type {
  CallOptions, Classification, Document, EmbedOptions, LoadOptions, ModelInfo, Polyrank,
  RankedDocument, RankOptions,
} from "./types.js";
