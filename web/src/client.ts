/** A model in a worker, so that the page stays quick. */

import { EncoderError, errorOf, LoadError } from "./errors.js";
import type { LoadProgress } from "./files.js";
import type { Reply, Request } from "./protocol.js";
import type {
  CallOptions, Classification, Document, EmbedOptions, LoadOptions, ModelInfo, Polyrank,
  RankedDocument, RankOptions,
} from "./types.js";

/** Settings of `startWorker`. */
export interface WorkerOptions extends LoadOptions {
  /** Where worker.js of this package lies; beside its other files unless given. */
  readonly worker?: string | URL | undefined;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (cause: unknown) => void;
  readonly onLoading?: ((progress: LoadProgress) => void) | undefined;
  readonly onComputing?: ((done: number, total: number) => void) | undefined;
}

type Unnumbered<T> = T extends unknown ? Omit<T, "id"> : never;

/**
 * Loads a checkpoint's folder in a worker of its own.
 *
 * @param folder Its address: absolute, or relative to the page.
 * @throws What `Model.load` throws; LoadError if the worker cannot be started.
 */
export async function startWorker(folder: string | URL, options: WorkerOptions = {}): Promise<Polyrank> {
  const page = globalThis.location.href;
  const worker = options.worker === undefined
    ? new Worker(new URL("./worker.js", import.meta.url), { type: "module" })
    : new Worker(options.worker, { type: "module" });
  const link = new Link(worker);
  try {
    const info = await link.ask(
      {
        kind: "load",
        folder: new URL(folder, page).href,
        maxLength: options.maxLength,
        cacheName: options.cacheName,
        wasm: options.wasm === undefined ? undefined : new URL(options.wasm, page).href,
      },
      options.signal,
      { onLoading: options.onProgress },
    );
    return new WorkerModel(link, info as ModelInfo);
  } catch (cause) {
    worker.terminate();
    throw cause;
  }
}

/** Questions to a worker and its answers, by their numbers. */
class Link {
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;
  private isClosed = false;

  constructor(private readonly worker: Worker) {
    worker.onmessage = (event: MessageEvent<Reply>) => this.receive(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.close(new LoadError(`the worker failed: ${event.message || "its program did not load"}.`));
    };
  }

  ask(
    request: Unnumbered<Exclude<Request, { kind: "abort" }>>,
    signal: AbortSignal | undefined,
    notes: Pick<Waiting, "onLoading" | "onComputing">,
  ): Promise<unknown> {
    if (this.isClosed) return Promise.reject(new EncoderError("this model was closed. Load it again."));
    const id = ++this.lastId;
    return new Promise<unknown>((resolve, reject) => {
      signal?.throwIfAborted();
      const stop = (): void => {
        this.waiting.delete(id);
        this.worker.postMessage({ kind: "abort", id } satisfies Request);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", stop, { once: true });
      const settled = <T>(settle: (value: T) => void) => (value: T): void => {
        signal?.removeEventListener("abort", stop);
        settle(value);
      };
      this.waiting.set(id, { resolve: settled(resolve), reject: settled(reject), ...notes });
      this.worker.postMessage({ ...request, id } as Request);
    });
  }

  close(cause: Error): void {
    this.isClosed = true;
    this.worker.terminate();
    for (const { reject } of this.waiting.values()) reject(cause);
    this.waiting.clear();
  }

  private receive(reply: Reply): void {
    const waiting = this.waiting.get(reply.id);
    if (waiting === undefined) return; // aborted
    if (reply.kind === "loading") return waiting.onLoading?.(reply.progress);
    if (reply.kind === "computing") return waiting.onComputing?.(reply.done, reply.total);
    this.waiting.delete(reply.id);
    if (reply.kind === "error") return waiting.reject(errorOf(reply.name, reply.message));
    waiting.resolve(reply.kind === "loaded" ? reply.info : reply.value);
  }
}

class WorkerModel implements Polyrank {
  constructor(
    private readonly link: Link,
    readonly info: ModelInfo,
  ) {}

  async rank<T extends Document>(
    query: string, documents: readonly T[], options: RankOptions = {},
  ): Promise<RankedDocument<T>[]> {
    const found = (await this.call("rank", [query, documents], options)) as RankedDocument<T>[];
    return found.map((hit) => ({ ...hit, document: documents[hit.index] as T }));
  }

  async embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    return (await this.call("embed", [texts], options)) as Float32Array[];
  }

  async classify(
    query: string, passages: readonly Document[], options: CallOptions = {},
  ): Promise<Classification[]> {
    return (await this.call("classify", [query, passages], options)) as Classification[];
  }

  close(): void {
    this.link.close(new EncoderError("this model was closed. Load it again."));
  }

  private call(
    method: "rank" | "embed" | "classify", args: readonly unknown[], options: CallOptions,
  ): Promise<unknown> {
    const { signal, onProgress, ...rest } = options;
    return this.link.ask({ kind: "call", method, args, options: rest }, signal, { onComputing: onProgress });
  }
}
