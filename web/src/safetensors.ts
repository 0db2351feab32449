/** A safetensors file that lies in the module's memory, read in place. */

import { CheckpointError, LoadError } from "./errors.js";
import type { Folder } from "./files.js";
import type { Address, Module } from "./module.js";

/** Where a tensor lies. */
export interface Tensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Of its first byte in the module's memory. */
  readonly address: Address;
  readonly bytes: number;
}

const HEADER_LENGTH = 8;
const MOST_HEADER_BYTES = 100_000_000;
const WIDTHS: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2, U8: 1, I8: 1 };

/** The tensors of one file. */
export class Weights {
  private constructor(
    private readonly module: Module,
    private readonly tensors: ReadonlyMap<string, Tensor>,
    readonly file: string,
  ) {}

  /**
   * Streams a file into the module's memory: the one copy that there is of it.
   *
   * @throws LoadError if it does not arrive.
   * @throws CheckpointError if its header and its length do not fit each other.
   */
  static async load(folder: Folder, name: string, module: Module): Promise<Weights> {
    let address = 0;
    let room = 0;
    let size = 0;
    const grow = (bytes: number): void => {
      const wider = module.take(bytes);
      if (address !== 0) {
        module.bytes(wider, size).set(module.bytes(address, size));
        module.free(address);
      }
      [address, room] = [wider, bytes];
    };
    const found = await folder.read(name, (told) => grow(told > 0 ? told : 1 << 20), (chunk) => {
      if (size + chunk.length > room) grow(Math.max(2 * room, size + chunk.length));
      module.bytes(address + size, chunk.length).set(chunk);
      size += chunk.length;
    });
    const where = folder.address(name).href;
    if (!found) throw new LoadError(`${where} is not there. Is this the folder of a checkpoint?`);
    return new Weights(module, readHeader(module, address, size, where), where);
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /**
   * Returns a tensor.
   *
   * @param name Its name in the file.
   * @param dtypes Types that it may have.
   * @param shape Its shape; null in place of a size that may be any.
   * @throws CheckpointError if it is absent, or of another type or shape.
   */
  get(name: string, dtypes: readonly string[], shape: readonly (number | null)[]): Tensor {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) {
      throw new CheckpointError(`${this.file} has no tensor ${name}. The files are of two checkpoints?`);
    }
    const fits =
      tensor.shape.length === shape.length &&
      shape.every((size, i) => size === null || size === tensor.shape[i]);
    if (!fits || !dtypes.includes(tensor.dtype)) {
      throw new CheckpointError(
        `tensor ${name} in ${this.file} is ${tensor.dtype} of shape [${tensor.shape.join(", ")}]; ` +
          `${dtypes.join(" or ")} of [${shape.map((size) => size ?? "any").join(", ")}] was expected.`,
      );
    }
    return tensor;
  }

  /** Returns a float32 tensor, all of whose values must be finite. */
  floats(name: string, shape: readonly (number | null)[]): Tensor {
    const tensor = this.get(name, ["F32"], shape);
    if (!this.module.floats(tensor.address, tensor.bytes / 4).every(Number.isFinite)) {
      throw new CheckpointError(`tensor ${name} in ${this.file} holds NaN or infinity. Load it again.`);
    }
    return tensor;
  }

  /** Returns a copy of a float32 tensor's values. */
  values(name: string, shape: readonly (number | null)[]): Float32Array {
    const tensor = this.floats(name, shape);
    return this.module.floats(tensor.address, tensor.bytes / 4).slice();
  }
}

function readHeader(
  module: Module, address: Address, size: number, file: string,
): ReadonlyMap<string, Tensor> {
  const broken = (why: string): CheckpointError =>
    new CheckpointError(`${file} is no safetensors file: ${why}. Load it again.`);
  if (size < HEADER_LENGTH) throw broken(`it has ${size} bytes`);
  const view = new DataView(module.bytes(address, HEADER_LENGTH).slice().buffer);
  const length = Number(view.getBigUint64(0, true));
  const begin = HEADER_LENGTH + length;
  if (length > MOST_HEADER_BYTES || begin > size) throw broken(`its header would take ${length} bytes`);
  let header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  try {
    header = JSON.parse(new TextDecoder().decode(module.bytes(address + HEADER_LENGTH, length).slice()));
  } catch {
    throw broken("its header is no JSON");
  }
  const tensors = new Map<string, Tensor>();
  for (const [name, info] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: offsets } = info;
    const width = WIDTHS[dtype];
    if (width === undefined || !Array.isArray(shape) || !Array.isArray(offsets)) {
      throw broken(`${name} is of a type or form that is not read`);
    }
    const [from, to] = offsets;
    const bytes = shape.reduce((product, each) => product * each, width);
    if (!(from >= 0 && to <= size - begin && to - from === bytes)) {
      throw broken(`${name} lies outside of it, or has another size than its shape says`);
    }
    if ((begin + from) % width !== 0) throw broken(`${name} is not aligned`);
    tensors.set(name, { name, dtype, shape, address: address + begin + from, bytes });
  }
  return tensors;
}
