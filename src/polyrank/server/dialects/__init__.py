"""Wire protocols, one a file: schemas, routes, decoding, encoding and errors. No engine calls."""
