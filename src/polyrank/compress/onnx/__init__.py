"""ONNX files for other runtimes: padded graphs with the head inside, in each consumer's layout."""
