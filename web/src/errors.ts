/** What can go wrong, as a tree: catch `PolyrankError` for all of it. */

/** Names of the errors, as they travel between a worker and the page. */
export type ErrorName =
  | "PolyrankError"
  | "UnsupportedError"
  | "LoadError"
  | "CheckpointError"
  | "CapabilityError"
  | "ConfigError"
  | "InputError"
  | "EncoderError";

/** The root of all errors of this package. An aborted call rejects with the signal's reason instead. */
export class PolyrankError extends Error {
  override name: ErrorName = "PolyrankError";
}

/** This browser lacks something that the package needs. */
export class UnsupportedError extends PolyrankError {
  override name: ErrorName = "UnsupportedError";
}

/** A file did not arrive: no connection, no such address, or too few bytes. */
export class LoadError extends PolyrankError {
  override name: ErrorName = "LoadError";
}

/** A file arrived, and its content is broken or does not fit the other files. */
export class CheckpointError extends PolyrankError {
  override name: ErrorName = "CheckpointError";
}

/** The checkpoint, or this package, cannot do what was asked for. */
export class CapabilityError extends PolyrankError {
  override name: ErrorName = "CapabilityError";
}

/** A setting does not fit. */
export class ConfigError extends PolyrankError {
  override name: ErrorName = "ConfigError";
}

/** A text cannot be read. */
export class InputError extends PolyrankError {
  override name: ErrorName = "InputError";
}

/** Computing failed: memory ran out, or the model was closed. */
export class EncoderError extends PolyrankError {
  override name: ErrorName = "EncoderError";
}

const CLASSES: Record<ErrorName, new (message: string) => PolyrankError> = {
  PolyrankError,
  UnsupportedError,
  LoadError,
  CheckpointError,
  CapabilityError,
  ConfigError,
  InputError,
  EncoderError,
};

/**
 * Returns an error of its class again, from what a worker sent of it.
 *
 * @param name Its name; an unknown one becomes a `PolyrankError`.
 * @param message Its message.
 */
export function errorOf(name: string, message: string): PolyrankError {
  const Class = name in CLASSES ? CLASSES[name as ErrorName] : PolyrankError;
  return new Class(message);
}
