/**
 * SentencePiece's precompiled normalisation, as the tokenizers library applies it: a double-array
 * trie maps characters and short grapheme clusters to what stands for them.
 *
 * Reference: Yata, "Darts-clone", the layout of the trie's units.
 */

import { CheckpointError } from "./errors.js";

const MOST_CLUSTER_BYTES = 5; // longer clusters are mapped character by character
const MOST_KEPT = 20_000; // characters whose mapping is remembered

// What may join the character before or after it to one cluster; all else is a cluster of its own.
const JOINERS =
  /[\p{M}\p{Cf}\p{Emoji_Modifier}\p{Regional_Indicator}\r\u200c\u200d\u0e33\u0eb3\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uff9e\uff9f]/u;

/** Maps texts to the form that pieces of the vocabulary have. */
export class Charsmap {
  private readonly trie: Uint32Array;
  private readonly replacements: Uint8Array;
  private readonly kept = new Map<string, string | null>();
  private readonly encoder = new TextEncoder();
  private readonly decoder = new TextDecoder();
  private readonly clusters = new Intl.Segmenter("und", { granularity: "grapheme" });

  /**
   * @param base64 The map as tokenizer.json holds it.
   * @throws CheckpointError if it is no such map.
   */
  constructor(base64: string) {
    let bytes: Uint8Array;
    try {
      bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    } catch {
      throw new CheckpointError("tokenizer.json: its precompiled_charsmap is no base64. Load it again.");
    }
    const size = bytes.length < 4 ? -1 : new DataView(bytes.buffer).getUint32(0, true);
    if (size < 4 || size % 4 !== 0 || 4 + size > bytes.length) {
      throw new CheckpointError("tokenizer.json: its precompiled_charsmap is cut off. Load it again.");
    }
    this.trie = new Uint32Array(bytes.slice(4, 4 + size).buffer);
    this.replacements = bytes.subarray(4 + size);
  }

  /** Returns the normalised text. */
  apply(text: string): string {
    let out = "";
    const isPlain = !JOINERS.test(text);
    const parts: Iterable<string> = isPlain ? text : this.clustersOf(text);
    for (const part of parts) out += this.mapped(part);
    return out;
  }

  private *clustersOf(text: string): Generator<string> {
    for (const { segment } of this.clusters.segment(text)) yield segment;
  }

  private mapped(cluster: string): string {
    const whole = this.lookup(cluster);
    if (whole !== null) return whole;
    let out = "";
    for (const char of cluster) out += this.lookup(char) ?? char;
    return out;
  }

  /** Returns what stands for a cluster, by its shortest beginning that the map has; null for none. */
  private lookup(cluster: string): string | null {
    const kept = this.kept.get(cluster);
    if (kept !== undefined) return kept;
    const bytes = this.encoder.encode(cluster);
    const found = bytes.length > MOST_CLUSTER_BYTES ? null : this.search(bytes);
    if (this.kept.size < MOST_KEPT) this.kept.set(cluster, found);
    return found;
  }

  private search(key: Uint8Array): string | null {
    const { trie, replacements } = this;
    let unit = trie[0] as number;
    let at = offset(unit);
    for (const byte of key) {
      if (byte === 0) return null;
      at ^= byte;
      unit = trie[at] ?? 0;
      if ((unit & 0x800000ff) >>> 0 !== byte) return null;
      at ^= offset(unit);
      if (((unit >>> 8) & 1) === 1) {
        const begin = (trie[at] ?? 0) & 0x7fffffff;
        const end = replacements.indexOf(0, begin);
        return this.decoder.decode(replacements.subarray(begin, end < 0 ? undefined : end));
      }
    }
    return null;
  }
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
