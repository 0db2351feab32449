/** The WebAssembly module: its memory and its functions, with numbers for addresses. */

import { EncoderError, LoadError, UnsupportedError } from "./errors.js";

/** Address in the module's memory. */
export type Address = number;

interface Functions {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  polyrank_take(bytes: number): Address;
  polyrank_free(memory: Address): void;
  polyrank_body(
    hiddenSize: number, numLayers: number, numHeads: number, intermediateSize: number,
    layerNormEps: number, activation: number,
  ): Address;
  polyrank_set_tables(
    body: Address, words: Address, wordScales: Address, wordType: number, numWords: number,
    positions: Address, positionType: number, numPositions: number,
    types: Address, typesType: number, numTypes: number,
  ): void;
  polyrank_set_mixed(
    body: Address, blocks: Address, scales: Address, numBlocks: number, planes: Address,
    planeBytes: number, numWords: number, coarse: Address, coded: Address,
  ): number;
  polyrank_set_embedding_norm(body: Address, gamma: Address, beta: Address): void;
  polyrank_set_norm(body: Address, layer: number, which: number, gamma: Address, beta: Address): void;
  polyrank_set_linear_blocks(
    body: Address, layer: number, which: number, numParts: number, blocksAPart: number,
    packed: Address, scales: Address, biases: Address, multipliers: Address,
  ): void;
  polyrank_run(
    body: Address, ids: Address, positions: Address, bounds: Address, numSequences: number,
    pooling: number, out: Address,
  ): void;
  polyrank_clean(
    rows: Address, numRows: number, width: number, center: Address, directions: Address,
    numDirections: number, along: Address, out: Address,
  ): void;
  polyrank_match(
    query: Address, numQuery: number, document: Address, numDocument: number, width: number,
    byQuery: Address, byDocument: Address,
  ): void;
  polyrank_tokens(
    bytes: Address, bounds: Address, scores: Address, numPieces: number, unknown: number,
  ): Address;
  polyrank_encode(tokens: Address, text: Address, size: number): number;
  polyrank_ids(tokens: Address): Address;
}

/** (func (drop (v128.const i32x4 0 0 0 0))): valid only where there is SIMD. */
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 23, 1, 21, 0, 253, 12, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 11,
]);

/** Memory and functions of one instance. Views of memory hold only until the next call. */
export class Module {
  private constructor(readonly call: Functions) {}

  /**
   * Starts an instance.
   *
   * @param wasm The compiled module, its bytes, or where it lies.
   * @throws UnsupportedError without WebAssembly or its SIMD.
   * @throws LoadError if it does not arrive, or is no such module.
   */
  static async start(wasm: WebAssembly.Module | BufferSource | string | URL): Promise<Module> {
    checkSupport();
    const module = wasm instanceof WebAssembly.Module ? wasm : await compiled(wasm);
    const instance = await WebAssembly.instantiate(module, {
      env: { emscripten_notify_memory_growth: () => undefined },
      wasi_snapshot_preview1: {
        proc_exit: (code: number) => {
          throw new EncoderError(`the encoder ended itself with ${code}. Report this.`);
        },
      },
    });
    const call = instance.exports as unknown as Functions;
    call._initialize();
    return new Module(call);
  }

  /** Bytes of memory that the module holds. */
  get memoryBytes(): number {
    return this.call.memory.buffer.byteLength;
  }

  /** Takes memory aligned to 64 bytes, which lies where it is until it is given back. */
  take(bytes: number): Address {
    const address = this.guarded(() => this.call.polyrank_take(bytes));
    if (address === 0) throw outOfMemory(bytes);
    return address;
  }

  free(address: Address): void {
    this.call.polyrank_free(address);
  }

  /** Runs `work` with memory of its own, which is given back whatever happens. */
  borrow<T>(bytes: number, work: (address: Address) => T): T {
    const address = this.take(bytes);
    try {
      return work(address);
    } finally {
      this.free(address);
    }
  }

  /** Copies numbers into memory of their own. */
  put(values: Int32Array | Uint32Array | Float32Array | Float64Array): Address {
    const address = this.take(values.byteLength);
    this.bytes(address, values.byteLength).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
    return address;
  }

  bytes(address: Address, count: number): Uint8Array {
    return new Uint8Array(this.call.memory.buffer, address, count);
  }

  floats(address: Address, count: number): Float32Array {
    return new Float32Array(this.call.memory.buffer, address, count);
  }

  ints(address: Address, count: number): Int32Array {
    return new Int32Array(this.call.memory.buffer, address, count);
  }

  /** Calls into the module; where it ends itself, memory had run out. */
  guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      if (cause instanceof WebAssembly.RuntimeError) throw outOfMemory(0, cause.message);
      throw cause;
    }
  }
}

function outOfMemory(bytes: number, why = ""): EncoderError {
  const asked = bytes > 0 ? `for ${Math.ceil(bytes / 2 ** 20)} MB` : `(${why})`;
  return new EncoderError(
    `memory ran out ${asked}. Close other pages, or give fewer or shorter texts; load the model again.`,
  );
}

/**
 * Checks what the browser has.
 *
 * @throws UnsupportedError if WebAssembly, its SIMD, or a way to unpack gzip data is missing.
 */
export function checkSupport(): void {
  const advice = "Update the browser: Chrome 91, Firefox 113, Safari 16.4 or newer will do.";
  if (typeof WebAssembly !== "object") {
    throw new UnsupportedError(`this browser has no WebAssembly. ${advice}`);
  }
  if (!WebAssembly.validate(SIMD_PROBE)) {
    throw new UnsupportedError(`this browser's WebAssembly has no SIMD. ${advice}`);
  }
  if (typeof DecompressionStream === "undefined" || typeof Intl.Segmenter === "undefined") {
    throw new UnsupportedError(
      "this browser lacks DecompressionStream or Intl.Segmenter. " +
        "Update it: Chrome 91, Firefox 125, Safari 16.4 or newer will do.",
    );
  }
}

async function compiled(wasm: BufferSource | string | URL): Promise<WebAssembly.Module> {
  try {
    if (!(typeof wasm === "string" || wasm instanceof URL)) return await WebAssembly.compile(wasm);
    const page = (globalThis as { location?: { href: string } }).location?.href;
    const url = new URL(wasm, page);
    if (url.protocol === "file:") {
      const { readFile } = await import(/* webpackIgnore: true */ "node:fs/promises");
      return await WebAssembly.compile(new Uint8Array(await readFile(url)));
    }
    const response = await fetch(url);
    if (!response.ok) throw new LoadError(`the server answered ${response.status}`);
    // not compileStreaming: it refuses servers that name another type than application/wasm
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (cause) {
    const where = typeof wasm === "string" || wasm instanceof URL ? String(wasm) : "polyrank.wasm";
    throw new LoadError(`${where} cannot be used: ${(cause as Error).message}. Set "wasm" to its place.`);
  }
}
