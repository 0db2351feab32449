"""Every engine by the name that the command line takes."""

from engines.adapter import Peer
from engines.own import (
    PolyrankNative,
    PolyrankNativeBf16,
    PolyrankNativeBlocks,
    PolyrankNativeInt8,
    PolyrankOnnx,
    PolyrankPytorch,
)
from engines.peers import (
    CTranslate2,
    OnnxRuntime,
    OnnxRuntimeInt8,
    OpenVino,
    OpenVinoBf16,
    OpenVinoInt8,
    OpenVinoInt8Bf16,
    SentenceTransformers,
    Torch,
    TorchBf16,
)

PEERS: dict[str, type[Peer]] = {
    "torch-float32": Torch,
    "torch-bfloat16": TorchBf16,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime-float32": OnnxRuntime,
    "onnxruntime-int8": OnnxRuntimeInt8,
    "openvino-float32": OpenVino,
    "openvino-bfloat16": OpenVinoBf16,
    "openvino-int8": OpenVinoInt8,
    "openvino-int8-bfloat16": OpenVinoInt8Bf16,
    "ctranslate2-int8": CTranslate2,
    "polyrank-onnx": PolyrankOnnx,
    "polyrank-pytorch": PolyrankPytorch,
    "polyrank-native-float32": PolyrankNative,
    "polyrank-native-bfloat16": PolyrankNativeBf16,
    "polyrank-native-int8": PolyrankNativeInt8,
    "polyrank-native-blocks": PolyrankNativeBlocks,
}
