/** Texts to token ids, exactly as the checkpoint's tokenizer.json makes them (Unigram). */

import { CapabilityError, CheckpointError, InputError, LoadError } from "./errors.js";
import type { Folder } from "./files.js";
import type { Address, Module } from "./module.js";
import { Charsmap } from "./normalizer.js";

type Json = Record<string, unknown>;
type Step = (text: string) => string;

const MARK = "\u2581";

/** Special tokens around one text. */
export interface Template {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** A checkpoint's tokenizer. */
export class Tokenizer {
  private readonly steps: readonly Step[];
  private readonly added: ReadonlyMap<string, number>;
  private readonly addedPattern: RegExp | null;
  private readonly prefix: "always" | "first" | "never";
  private readonly encoder = new TextEncoder();
  private readonly tokens: Address;
  readonly template: Template;
  readonly numIds: number;

  private constructor(
    private readonly module: Module,
    content: Json,
    where: string,
  ) {
    const model = content["model"] as Json | undefined;
    if (model?.["type"] !== "Unigram" || model["byte_fallback"] === true) {
      throw new CapabilityError(
        `${where} is a tokenizer of type ${String(model?.["type"])}; polyrank-web reads Unigram ` +
          "without byte fallback, which XLM-R and its relatives have.",
      );
    }
    this.steps = normalizers(content["normalizer"], where);
    this.prefix = prefixScheme(content["pre_tokenizer"], where);
    this.added = addedTokens(content["added_tokens"], where);
    const escaped = [...this.added.keys()]
      .sort((a, b) => b.length - a.length)
      .map((token) => token.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.addedPattern = escaped.length > 0 ? new RegExp(`(${escaped.join("|")})`, "u") : null;
    const vocab = model["vocab"] as [string, number][];
    this.tokens = putVocabulary(module, vocab, model["unk_id"], where);
    this.template = templateOf(content["post_processor"], where);
    this.numIds = Math.max(vocab.length, ...[...this.added.values()].map((id) => id + 1));
  }

  /**
   * Loads tokenizer.json.gz or tokenizer.json.
   *
   * @throws LoadError if neither is there.
   * @throws CheckpointError if it is broken.
   * @throws CapabilityError if it is of another kind.
   */
  static async load(folder: Folder, module: Module): Promise<Tokenizer> {
    const packed = await folder.json("tokenizer.json.gz");
    const name = packed === null ? "tokenizer.json" : "tokenizer.json.gz";
    const content = packed ?? (await folder.json(name));
    const where = folder.address(name).href;
    if (content === null) throw new LoadError(`${where} is not there, nor is tokenizer.json.gz.`);
    return new Tokenizer(module, content, where);
  }

  /**
   * Returns the ids of a text, without special tokens or truncation.
   *
   * @throws InputError if it is no text, or holds half a surrogate pair.
   */
  encode(text: string): Int32Array {
    checkText(text, "a text");
    const parts = this.addedPattern === null ? [text] : text.split(this.addedPattern);
    const found: Int32Array[] = [];
    parts.forEach((part, i) => {
      const id = i % 2 === 1 ? this.added.get(part) : undefined;
      if (id !== undefined) found.push(Int32Array.of(id));
      else if (part !== "") found.push(this.encodePart(part, found.length === 0));
    });
    if (found.length === 1) return found[0] as Int32Array;
    const ids = new Int32Array(found.reduce((sum, each) => sum + each.length, 0));
    let at = 0;
    for (const each of found) {
      ids.set(each, at);
      at += each.length;
    }
    return ids;
  }

  private encodePart(part: string, isFirst: boolean): Int32Array {
    let text = this.steps.reduce((so_far, step) => step(so_far), part);
    if (text === "") return new Int32Array(0);
    text = text.replaceAll(" ", MARK);
    const isPrefixed = this.prefix === "always" || (this.prefix === "first" && isFirst);
    if (isPrefixed && !text.startsWith(MARK)) text = MARK + text;
    const { module } = this;
    return module.borrow(3 * text.length + 1, (address) => {
      const { written } = this.encoder.encodeInto(text, module.bytes(address, 3 * text.length));
      const count = module.guarded(() => module.call.polyrank_encode(this.tokens, address, written));
      return module.ints(module.call.polyrank_ids(this.tokens), count).slice();
    });
  }
}

/** Raises unless a value is a text that can be encoded. */
export function checkText(text: unknown, what: string): asserts text is string {
  if (typeof text !== "string") {
    throw new InputError(`${what} must be a string, not ${text === null ? "null" : typeof text}.`);
  }
  if (/\p{Surrogate}/u.test(text)) {
    throw new InputError(`${what} holds half of a surrogate pair, which stands for no character.`);
  }
}

function normalizers(given: unknown, where: string): Step[] {
  const step = (given ?? {}) as Json;
  switch (step["type"]) {
    case undefined:
      return [];
    case "Sequence":
      return (step["normalizers"] as unknown[]).flatMap((each) => normalizers(each, where));
    case "Precompiled": {
      const charsmap = new Charsmap(String(step["precompiled_charsmap"]));
      return [(text) => charsmap.apply(text)];
    }
    case "Replace": {
      const { Regex, String: literal } = step["pattern"] as { Regex?: string; String?: string };
      const content = String(step["content"]);
      if (Regex === undefined) return [(text) => text.replaceAll(String(literal), () => content)];
      const pattern = new RegExp(Regex, "gu");
      return [(text) => text.replace(pattern, () => content)];
    }
    case "NFC":
    case "NFKC":
    case "NFD":
    case "NFKD": {
      const form = step["type"];
      return [(text) => text.normalize(form)];
    }
    case "Lowercase":
      return [(text) => text.toLowerCase()];
    default:
      throw new CapabilityError(`${where} has a normaliser ${String(step["type"])}, which is not read.`);
  }
}

function prefixScheme(given: unknown, where: string): "always" | "first" | "never" {
  const step = (given ?? {}) as Json;
  const steps = step["type"] === "Sequence" ? (step["pretokenizers"] as Json[]) : [step];
  const last = steps.at(-1) as Json;
  const rest = steps.slice(0, -1).map((each) => each["type"]);
  if (last["type"] !== "Metaspace" || last["replacement"] !== MARK || rest.length > 0) {
    throw new CapabilityError(`${where} does not split words by Metaspace alone, which is not read.`);
  }
  const scheme = last["prepend_scheme"] ?? (last["add_prefix_space"] === false ? "never" : "always");
  if (scheme === "always" || scheme === "first" || scheme === "never") return scheme;
  throw new CheckpointError(`${where} has an unknown prepend_scheme: ${JSON.stringify(scheme)}.`);
}

function addedTokens(given: unknown, where: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const token of (given ?? []) as Json[]) {
    if (token["single_word"] === true || token["lstrip"] === true || token["rstrip"] === true) {
      throw new CapabilityError(`${where}: ${String(token["content"])} strips blanks, which is not read.`);
    }
    found.set(String(token["content"]), Number(token["id"]));
  }
  return found;
}

function putVocabulary(
  module: Module, vocab: unknown, unknown: unknown, where: string,
): Address {
  const isPair = (entry: unknown): boolean =>
    Array.isArray(entry) && typeof entry[0] === "string" && entry[0] !== "" && Number.isFinite(entry[1]);
  if (!Array.isArray(vocab) || vocab.length === 0 || !vocab.every(isPair)) {
    throw new CheckpointError(`${where}: its vocabulary is no list of pieces and scores. Load it again.`);
  }
  if (!Number.isInteger(unknown) || (unknown as number) >= vocab.length || (unknown as number) < 0) {
    throw new CheckpointError(`${where}: its unk_id is ${String(unknown)}; it must name a piece.`);
  }
  const pieces = vocab as [string, number][];
  const bounds = new Uint32Array(pieces.length + 1);
  pieces.forEach(([piece], i) => {
    bounds[i + 1] = (bounds[i] as number) + utf8Length(piece);
  });
  const size = bounds[pieces.length] as number;
  const bytes = module.take(size);
  new TextEncoder().encodeInto(pieces.map(([piece]) => piece).join(""), module.bytes(bytes, size));
  const scores = module.put(Float64Array.from(pieces, ([, score]) => score));
  const places = module.put(bounds);
  return module.guarded(() =>
    module.call.polyrank_tokens(bytes, places, scores, pieces.length, unknown as number),
  );
}

function utf8Length(text: string): number {
  let length = text.length;
  for (let i = 0; i < text.length; ++i) {
    const code = text.charCodeAt(i);
    // each half of a surrogate pair counts two
    if (code > 0x7f) length += code > 0x7ff && (code < 0xd800 || code > 0xdfff) ? 2 : 1;
  }
  return length;
}

function templateOf(given: unknown, where: string): Template {
  const processor = (given ?? {}) as Json;
  if (processor["type"] !== "TemplateProcessing") {
    throw new CapabilityError(`${where} has no TemplateProcessing, which is what is read.`);
  }
  const special = processor["special_tokens"] as Record<string, { ids: number[] }>;
  const before: number[] = [];
  const after: number[] = [];
  let part = before;
  for (const each of processor["single"] as Json[]) {
    const token = each["SpecialToken"] as { id: string } | undefined;
    if (token === undefined) part = after;
    else part.push(...(special[token.id]?.ids ?? []));
  }
  return { before, after };
}
