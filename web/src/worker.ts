/** The worker's own program: holds one model and answers the page. `startWorker` starts it. */

import { PolyrankError } from "./errors.js";
import { Model } from "./model.js";
import type { Reply, Request } from "./protocol.js";
import type { LoadOptions } from "./types.js";

interface Scope {
  onmessage: ((event: MessageEvent<Request>) => void) | null;
  postMessage(message: Reply): void;
}

const scope = globalThis as unknown as Scope;
const running = new Map<number, AbortController>();
let model: Model | null = null;

async function answer(request: Exclude<Request, { kind: "abort" }>, signal: AbortSignal): Promise<Reply> {
  const { id } = request;
  if (request.kind === "load") {
    const { folder, maxLength, cacheName, wasm } = request;
    const options: LoadOptions = {
      maxLength, cacheName, wasm, signal,
      onProgress: (progress) => scope.postMessage({ kind: "loading", id, progress }),
    };
    model = await Model.load(folder, options);
    return { kind: "loaded", id, info: model.info };
  }
  if (model === null) throw new PolyrankError("nothing is loaded in this worker.");
  const options = {
    ...request.options,
    signal,
    onProgress: (done: number, total: number) => scope.postMessage({ kind: "computing", id, done, total }),
  };
  const call = model[request.method] as (...args: unknown[]) => Promise<unknown>;
  return { kind: "result", id, value: await call.call(model, ...request.args, options) };
}

scope.onmessage = async ({ data }) => {
  if (data.kind === "abort") {
    running.get(data.id)?.abort();
    return;
  }
  const controller = new AbortController();
  running.set(data.id, controller);
  try {
    scope.postMessage(await answer(data, controller.signal));
  } catch (cause) {
    const { name, message } = cause as Error;
    scope.postMessage({ kind: "error", id: data.id, name, message });
  } finally {
    running.delete(data.id);
  }
};
