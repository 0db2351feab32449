/** A checkpoint in memory, in this thread. In a page, run it in a worker: see `startWorker`. */

import { Body } from "./body.js";
import { readCalibration, type Calibration } from "./calibration.js";
import { readSpec, type HeadSpec, type Spec } from "./checkpoint.js";
import { CapabilityError, CheckpointError, ConfigError, EncoderError, InputError } from "./errors.js";
import { Folder } from "./files.js";
import { cosine, Head, Matcher, type CleanRows, type Query } from "./late_interaction.js";
import { Module, type Address } from "./module.js";
import { Weights } from "./safetensors.js";
import { checkText, Tokenizer } from "./tokenizer.js";
import type {
  CallOptions, Classification, Document, EmbedOptions, LoadOptions, ModelInfo, Polyrank,
  RankedDocument, RankOptions,
} from "./types.js";

const BATCH_TOKENS = 1024; // that go through all layers at once
const TEXT_FIELDS = ["text", "content", "page_content"];

/** A text as it is run, and which of its rows count. */
interface Sequence {
  readonly ids: Int32Array;
  readonly isTruncated: boolean;
  readonly from: number;
  readonly to: number;
}

interface Loaded {
  readonly module: Module;
  readonly spec: Spec;
  readonly tokenizer: Tokenizer;
  readonly body: Body;
  readonly matchers: ReadonlyMap<string, Matcher>;
  readonly rerank: Head | null;
  readonly classify: Head | null;
  readonly calibration: Calibration;
}

/** What a head makes of a pair. */
interface Scored {
  readonly logits: Float32Array;
  readonly isTruncated: boolean;
}

/** A checkpoint that ranks, embeds and classifies. */
export class Model implements Polyrank {
  private loaded: Loaded | null;
  private readonly promptLengths: Readonly<Record<"query" | "document", number>>;
  private readonly maxLength: number;
  private readonly loadMilliseconds: number;

  private constructor(loaded: Loaded, maxLength: number, started: number) {
    this.loaded = loaded;
    this.maxLength = maxLength;
    const { query, document } = loaded.spec.prompts;
    // the blank at a prompt's end belongs to the first piece of what follows
    const count = (prompt: string): number => loaded.tokenizer.encode(prompt.trim()).length;
    this.promptLengths = { query: count(query), document: count(document) };
    this.loadMilliseconds = performance.now() - started;
  }

  /**
   * Loads a checkpoint's folder.
   *
   * @param folder Its address, as `Folder` takes it.
   * @throws UnsupportedError if the browser lacks something.
   * @throws LoadError if a file does not arrive.
   * @throws CheckpointError if a file is broken.
   * @throws CapabilityError if the checkpoint is of a kind that is not read here.
   * @throws ConfigError if a setting does not fit.
   */
  static async load(folder: string | URL, options: LoadOptions = {}): Promise<Model> {
    const started = performance.now();
    const files = new Folder(folder, options);
    const module = await Module.start(options.wasm ?? new URL("./polyrank.wasm", import.meta.url));
    const [spec, weights, tokenizer] = await Promise.all([
      readSpec(files),
      Weights.load(files, "model.safetensors", module),
      Tokenizer.load(files, module),
    ]);
    if (tokenizer.numIds > spec.body.vocabSize) {
      throw new CheckpointError(
        `the tokenizer has ${tokenizer.numIds} ids and the embedding table ${spec.body.vocabSize} rows. ` +
          "The two belong to different checkpoints.",
      );
    }
    const maxLength = checkedLength(options.maxLength, spec.maxLength, tokenizer);
    const body = new Body(module, weights, spec.body);
    const matchers = new Map<string, Matcher>();
    const head = (own: HeadSpec | null): Head | null => {
      if (own === null) return null;
      const key = `${own.center} ${own.directions ?? ""}`;
      const matcher = matchers.get(key) ?? new Matcher(module, weights, own, spec.body.hiddenSize);
      matchers.set(key, matcher);
      return new Head(weights, own, matcher);
    };
    const [rerank, classify] = [head(spec.rerank), head(spec.classify)];
    const calibration = readCalibration(spec.calibration, spec.classify?.labels ?? []);
    const loaded = { module, spec, tokenizer, body, matchers, rerank, classify, calibration };
    return new Model(loaded, maxLength, started);
  }

  get info(): ModelInfo {
    const { spec, module, calibration, rerank, classify } = this.opened();
    const notes = rerank === null ? ["An embedding checkpoint: scores are cosines, from -1 to 1."] : [];
    return {
      canRank: true,
      canClassify: classify !== null,
      labels: spec.classify?.labels ?? [],
      dimensions: spec.body.hiddenSize,
      maxLength: this.maxLength,
      memoryBytes: module.memoryBytes,
      loadMilliseconds: this.loadMilliseconds,
      notes: [...notes, ...calibration.notes],
    };
  }

  async rank<T extends Document>(
    query: string, documents: readonly T[], options: RankOptions = {},
  ): Promise<RankedDocument<T>[]> {
    const { rerank, calibration } = this.opened();
    const { topN, minProbability } = options;
    checkRankOptions(options);
    const map = rerank === null ? null : calibration.rerank;
    if (minProbability !== undefined && map === null) {
      throw new CapabilityError(
        "this checkpoint has no calibration of rankings that holds here, so there is no minProbability.",
      );
    }
    const texts = documentTexts(documents, "documents");
    const found = rerank === null
      ? await this.cosines(query, texts, options)
      : await this.compare(rerank, query, texts, options);
    const hits = found.map(({ logits, isTruncated }, index) => {
      const logit = logits[0] as number;
      const score = rerank === null ? logit : (rerank.activate(logits)[0] as number);
      const probability = map === null ? null : map(logit);
      return { index, score, logit, probability, isTruncated, document: documents[index] as T };
    });
    return hits
      .sort((a, b) => b.logit - a.logit || a.index - b.index)
      .filter(({ probability }) => (probability ?? 1) >= (minProbability ?? 0))
      .slice(0, topN);
  }

  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    const { spec } = this.opened();
    const { inputType } = options;
    if (inputType !== undefined && inputType !== "query" && inputType !== "document") {
      throw new ConfigError(`inputType must be query or document, not ${String(inputType)}.`);
    }
    const prompt = inputType === undefined ? "" : spec.prompts[inputType];
    const sequences = checkedTexts(texts, "texts").map((text) => this.sequence(prompt + text, 0));
    return this.vectors(sequences, options);
  }

  async classify(
    query: string, passages: readonly Document[], options: CallOptions = {},
  ): Promise<Classification[]> {
    const { classify, calibration } = this.opened();
    if (classify === null) throw new CapabilityError("this checkpoint has no head that classifies.");
    const { labels } = classify.spec;
    const found = await this.compare(classify, query, documentTexts(passages, "passages"), options);
    return found.map(({ logits, isTruncated }) => {
      const scores = classify.activate(logits);
      const best = scores.indexOf(Math.max(...scores));
      const own = calibration.classify?.(logits) ?? null;
      return {
        label: labels[best] as string,
        score: scores[best] as number,
        probabilities: named(labels, scores),
        isTruncated,
        probability: own === null ? null : (own[best] as number),
        calibratedProbabilities: own === null ? null : named(labels, own),
      };
    });
  }

  close(): void {
    this.loaded = null; // the module's memory goes with it
  }

  private opened(): Loaded {
    if (this.loaded === null) throw new EncoderError("this model was closed. Load it again.");
    return this.loaded;
  }

  /** Compares a query with texts by a head of late interaction; each different text is read once. */
  private async compare(
    head: Head, query: string, texts: readonly string[], options: CallOptions,
  ): Promise<Scored[]> {
    const { spec, module } = this.opened();
    checkText(query, "query");
    if (texts.length === 0) return [];
    const asked = this.sequence(spec.prompts.query + query, this.promptLengths.query);
    const unique = [...new Set(texts)];
    const sequences = unique.map((text) =>
      this.sequence(spec.prompts.document + text, this.promptLengths.document),
    );
    const matcher = this.matcherOf(head);
    const clean = (rows: Address, { from, to }: Sequence): CleanRows =>
      matcher.clean(rows + from * spec.body.hiddenSize * 4, to - from);
    const found = new Map<string, Scored>();
    let ready: Query | null = null;
    try {
      await this.run([asked, ...sequences], options, (rows, sequence, i) => {
        const own = clean(rows, sequence);
        if (i === 0) {
          ready = { rows: own, weights: new Map([[head, head.weigh(own)]]) };
          return;
        }
        try {
          const logits = head.logits(ready as Query, own, matcher.match((ready as Query).rows, own));
          const isTruncated = asked.isTruncated || sequence.isTruncated;
          found.set(unique[i - 1] as string, { logits, isTruncated });
        } finally {
          module.free(own.address);
        }
      });
    } finally {
      if (ready !== null) module.free((ready as Query).rows.address);
    }
    return texts.map((text) => found.get(text) as Scored);
  }

  private async cosines(query: string, texts: readonly string[], options: CallOptions): Promise<Scored[]> {
    const { prompts } = this.opened().spec;
    checkText(query, "query");
    const sequences = [prompts.query + query, ...texts.map((text) => prompts.document + text)]
      .map((text) => this.sequence(text, 0));
    const [asked, ...vectors] = await this.vectors(sequences, options);
    return vectors.map((vector, i) => ({
      logits: Float32Array.of(cosine(asked as Float32Array, vector)),
      isTruncated: (sequences[0] as Sequence).isTruncated || (sequences[i + 1] as Sequence).isTruncated,
    }));
  }

  private async vectors(sequences: readonly Sequence[], options: CallOptions): Promise<Float32Array[]> {
    const { module, spec } = this.opened();
    const width = spec.body.hiddenSize;
    const found: Float32Array[] = [];
    await this.run(sequences, options, (rows) => {
      const vector = module.floats(rows, width).slice();
      const square = vector.reduce((sum, value) => sum + value * value, 0);
      const length = spec.isNormalized ? Math.max(Math.sqrt(square), 1e-12) : 1;
      found.push(vector.map((value) => value / length));
    }, spec.pooling);
    return found;
  }

  /** Runs sequences batch by batch, and hands the rows of each to `use`, in order. */
  private async run(
    sequences: readonly Sequence[],
    options: CallOptions,
    use: (rows: Address, sequence: Sequence, index: number) => void,
    pooling: "tokens" | "cls" | "mean" = "tokens",
  ): Promise<void> {
    const { signal, onProgress } = options;
    const total = sequences.reduce((sum, { ids }) => sum + ids.length, 0);
    let done = 0;
    for (let first = 0; first < sequences.length; ) {
      signal?.throwIfAborted();
      const { body, spec } = this.opened();
      const batch = [sequences[first] as Sequence];
      let tokens = (batch[0] as Sequence).ids.length;
      for (let next = first + 1; next < sequences.length; ++next) {
        const sequence = sequences[next] as Sequence;
        if (tokens + sequence.ids.length > BATCH_TOKENS) break;
        tokens += sequence.ids.length;
        batch.push(sequence);
      }
      body.run(batch.map(({ ids }) => ids), pooling, (rows) => {
        let at = rows;
        batch.forEach((sequence, i) => {
          use(at, sequence, first + i);
          at += (pooling === "tokens" ? sequence.ids.length : 1) * spec.body.hiddenSize * 4;
        });
      });
      first += batch.length;
      done += tokens;
      onProgress?.(done, total);
      if (first < sequences.length && (signal !== undefined || onProgress !== undefined)) await turn();
    }
  }

  /** Returns a text's ids with special tokens, cut at its end where it is too long. */
  private sequence(text: string, promptLength: number): Sequence {
    const { tokenizer } = this.opened();
    const { before, after } = tokenizer.template;
    const whole = tokenizer.encode(text);
    const room = this.maxLength - before.length - after.length;
    const kept = whole.subarray(0, room);
    const ids = Int32Array.from([...before, ...kept, ...after]);
    const [from, to] = [before.length + promptLength, before.length + kept.length];
    const isTruncated = kept.length < whole.length;
    // a text without tokens of its own counts with all its rows
    return from < to ? { ids, isTruncated, from, to } : { ids, isTruncated, from: 0, to: ids.length };
  }

  private matcherOf(head: Head): Matcher {
    const { center, directions } = head.spec;
    return this.opened().matchers.get(`${center} ${directions ?? ""}`) as Matcher;
  }
}

function checkedLength(asked: number | undefined, limit: number, tokenizer: Tokenizer): number {
  const least = tokenizer.template.before.length + tokenizer.template.after.length + 1;
  const length = asked ?? limit;
  if (Number.isInteger(length) && length >= least && length <= limit) return length;
  throw new ConfigError(`maxLength is ${length}; this checkpoint takes whole numbers from ${least} to ${limit}.`);
}

function checkRankOptions({ topN, minProbability }: RankOptions): void {
  if (topN !== undefined && !(Number.isInteger(topN) && topN >= 1)) {
    throw new ConfigError(`topN is ${topN}; it must be a whole number from 1.`);
  }
  if (minProbability !== undefined && !(minProbability >= 0 && minProbability <= 1)) {
    throw new ConfigError(`minProbability is ${minProbability}; it must be a number from 0 to 1.`);
  }
}

function documentTexts(documents: readonly Document[], what: string): string[] {
  if (!Array.isArray(documents)) throw new InputError(`${what} must be an array of texts, not ${typeof documents}.`);
  return documents.map((document: unknown, i) => {
    const fields = Object(document) as Record<string, unknown>;
    const field = typeof document === "string" ? null : TEXT_FIELDS.find((name) => name in fields);
    if (field === undefined) throw new InputError(`${what}[${i}] has none of ${TEXT_FIELDS.join(", ")}.`);
    const text = field === null ? document : fields[field];
    checkText(text, `${what}[${i}]`);
    return text;
  });
}

function checkedTexts(texts: readonly string[], what: string): readonly string[] {
  if (!Array.isArray(texts)) throw new InputError(`${what} must be an array of texts, not ${typeof texts}.`);
  texts.forEach((text, i) => checkText(text, `${what}[${i}]`));
  return texts;
}

function named(labels: readonly string[], values: ArrayLike<number>): Record<string, number> {
  return Object.fromEntries(labels.map((label, i) => [label, values[i] as number]));
}

/** Lets messages in, such as the one that aborts. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
