/** Files from a server, the browser's cache or a disk, as streams with progress. */

import { LoadError } from "./errors.js";

/** How far loading is. */
export interface LoadProgress {
  /** Name of the file that is being read. */
  readonly file: string;
  /** Bytes of all files that were read so far. */
  readonly loaded: number;
  /** Bytes of all files, as far as servers have said; grows until all have answered. */
  readonly total: number;
  /** Whether this file came from the browser's cache. */
  readonly fromCache: boolean;
}

/** How files are fetched. */
export interface FileOptions {
  /** Name of the cache in the browser's Cache API; null keeps nothing. */
  readonly cacheName?: string | null | undefined;
  /** Stops loading; the promise then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called as bytes arrive. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** The cache that is used unless another is named. */
export const DEFAULT_CACHE = "polyrank-web-1";

const GZIP = [0x1f, 0x8b];

/** The files of one folder. */
export class Folder {
  private readonly base: URL;
  private readonly sizes = new Map<string, { loaded: number; total: number }>();

  /**
   * @param base Address of the folder: absolute, or relative to the page or worker. Under Node also
   *     a `file:` address.
   * @param options How files are fetched.
   */
  constructor(
    base: string | URL,
    private readonly options: FileOptions = {},
  ) {
    const text = String(base);
    const page = (globalThis as { location?: { href: string } }).location?.href;
    try {
      this.base = new URL(text.endsWith("/") ? text : `${text}/`, page);
    } catch {
      throw new LoadError(`${JSON.stringify(text)} is no address of a folder. Give an absolute one.`);
    }
  }

  /** Where a file lies. */
  address(name: string): URL {
    return new URL(name, this.base);
  }

  /**
   * Returns a JSON file's content.
   *
   * @returns null where there is no such file.
   * @throws LoadError if it does not arrive, or is no JSON.
   */
  async json(name: string): Promise<Record<string, unknown> | null> {
    const bytes = await this.bytes(name);
    if (bytes === null) return null;
    return parsed(new TextDecoder().decode(bytes), this.address(name).href);
  }

  /** Returns a whole file, unpacked where it is gzip data; null where there is no such file. */
  async bytes(name: string): Promise<Uint8Array | null> {
    let bytes = new Uint8Array(0);
    let at = 0;
    const found = await this.read(name, (size) => {
      bytes = new Uint8Array(size);
    }, (chunk) => {
      if (at + chunk.length > bytes.length) {
        const wider = new Uint8Array(Math.max(2 * bytes.length, at + chunk.length));
        wider.set(bytes.subarray(0, at));
        bytes = wider;
      }
      bytes.set(chunk, at);
      at += chunk.length;
    });
    if (!found) return null;
    const whole = bytes.subarray(0, at);
    return GZIP.every((byte, i) => whole[i] === byte) ? unpacked(whole, name) : whole;
  }

  /**
   * Reads a file piece by piece.
   *
   * @param name Its name in the folder.
   * @param begin Called once with the file's size in bytes; 0 where the server does not say.
   * @param take Called with each piece, in order.
   * @returns Whether there is such a file.
   * @throws LoadError if it does not arrive whole.
   */
  async read(
    name: string,
    begin: (size: number) => void,
    take: (chunk: Uint8Array) => void,
  ): Promise<boolean> {
    const { signal } = this.options;
    signal?.throwIfAborted();
    const { response, fromCache, stored } = await this.open(name);
    if (response === null) return false;
    // a server that packs on the way tells the size of what it packed
    const isPacked = response.headers.has("content-encoding");
    const size = isPacked ? 0 : Number(response.headers.get("content-length") ?? 0);
    begin(size);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let loaded = 0;
    this.note(name, 0, size, fromCache);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        signal?.throwIfAborted();
        if (done) break;
        take(value);
        loaded += value.length;
        this.note(name, loaded, Math.max(size, loaded), fromCache);
      }
    } catch (cause) {
      await reader.cancel(cause).catch(() => undefined);
      signal?.throwIfAborted();
      throw cause instanceof TypeError ? this.broken(name, `after ${loaded} bytes: ${cause.message}`) : cause;
    }
    if (size > 0 && loaded !== size) {
      throw this.broken(name, `${loaded} of ${size} bytes arrived`);
    }
    await stored;
    return true;
  }

  private broken(name: string, why: string): LoadError {
    return new LoadError(`${this.address(name).href} did not arrive whole (${why}). Load it again.`);
  }

  private note(file: string, loaded: number, total: number, fromCache: boolean): void {
    this.sizes.set(file, { loaded, total });
    const all = [...this.sizes.values()];
    this.options.onProgress?.({
      file,
      loaded: all.reduce((sum, each) => sum + each.loaded, 0),
      total: all.reduce((sum, each) => sum + each.total, 0),
      fromCache,
    });
  }

  /** Opens a file from the cache, or the server, whose answer then goes into the cache, too. */
  private async open(
    name: string,
  ): Promise<{ response: Response | null; fromCache: boolean; stored: Promise<void> }> {
    const none = Promise.resolve();
    const url = this.address(name);
    if (url.protocol === "file:") {
      return { response: await fromDisk(url), fromCache: false, stored: none };
    }
    const cache = await this.cache();
    const kept = await cache?.match(url);
    if (kept !== undefined) return { response: kept, fromCache: true, stored: none };
    const { signal } = this.options;
    let response: Response;
    try {
      response = await fetch(url, signal === undefined ? {} : { signal });
    } catch (cause) {
      signal?.throwIfAborted();
      throw new LoadError(`${url.href} cannot be reached: ${(cause as Error).message}.`);
    }
    if (response.status === 404) return { response: null, fromCache: false, stored: none };
    if (!response.ok || response.body === null) {
      throw new LoadError(`${url.href}: the server answered ${response.status} ${response.statusText}.`);
    }
    if (cache === null) return { response, fromCache: false, stored: none };
    const copy = response.clone();
    // a full disk or a broken transfer must not keep anyone from the model, and leaves no half file
    const stored = cache.put(url, copy).catch(() => undefined);
    return { response, fromCache: false, stored };
  }

  private async cache(): Promise<Cache | null> {
    const name = this.options.cacheName === undefined ? DEFAULT_CACHE : this.options.cacheName;
    if (name === null || typeof caches === "undefined") return null;
    return caches.open(name).catch(() => null); // private windows of some browsers refuse
  }
}

/** Deletes what the browser keeps of models. */
export async function clearCache(cacheName: string = DEFAULT_CACHE): Promise<boolean> {
  return typeof caches === "undefined" ? false : caches.delete(cacheName);
}

function parsed(text: string, what: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // told below
  }
  throw new LoadError(`${what} is no JSON: it begins with ${JSON.stringify(text.slice(0, 40))}.`);
}

async function unpacked(bytes: Uint8Array, name: string): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream();
  try {
    const whole = await new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    return new Uint8Array(whole);
  } catch {
    throw new LoadError(`${name} is broken gzip data. Load it again.`);
  }
}

/** Returns a file of this machine, under Node; null where there is no such file. */
async function fromDisk(url: URL): Promise<Response | null> {
  const { createReadStream } = await import(/* webpackIgnore: true */ "node:fs");
  const { stat } = await import(/* webpackIgnore: true */ "node:fs/promises");
  const { Readable } = await import(/* webpackIgnore: true */ "node:stream");
  try {
    const { size } = await stat(url);
    // not FileHandle.readableWebStream, which leaves files open: Node 20 died as it collected them
    const body = Readable.toWeb(createReadStream(url)) as unknown as ReadableStream<Uint8Array>;
    return new Response(body, { headers: { "content-length": String(size) } });
  } catch (cause) {
    if ((cause as { code?: string }).code === "ENOENT") return null;
    throw new LoadError(`${url.href} cannot be read: ${(cause as Error).message}`);
  }
}
