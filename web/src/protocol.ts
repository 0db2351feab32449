/** What a page and its worker say to each other. */

import type { LoadProgress } from "./files.js";
import type { ModelInfo } from "./types.js";

/** From the page. Calls are answered by their number. */
export type Request =
  | { readonly kind: "load"; readonly id: number; readonly folder: string; readonly maxLength: number | undefined;
      readonly cacheName: string | null | undefined; readonly wasm: string | undefined }
  | { readonly kind: "call"; readonly id: number; readonly method: "rank" | "embed" | "classify";
      readonly args: readonly unknown[]; readonly options: Readonly<Record<string, unknown>> }
  | { readonly kind: "abort"; readonly id: number };

/** From the worker. */
export type Reply =
  | { readonly kind: "loading"; readonly id: number; readonly progress: LoadProgress }
  | { readonly kind: "computing"; readonly id: number; readonly done: number; readonly total: number }
  | { readonly kind: "loaded"; readonly id: number; readonly info: ModelInfo }
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "error"; readonly id: number; readonly name: string; readonly message: string };
