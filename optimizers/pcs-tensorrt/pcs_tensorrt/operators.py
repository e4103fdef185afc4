"""Which ONNX operators TensorRT's parser takes, by version, as its documentation says.

From ``docs/operators.md`` of onnx-tensorrt for TensorRT 10.15 and the parser's release notes of 10.0,
10.14, 11.0 and 11.5. What is documented is no proof: an engine is.
"""

from __future__ import annotations

from pcs_core.errors import InputError

SUPPORTED = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh
    CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish
    Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow
    QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan
    Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()
)
"""Operators of ONNX's own domain in TensorRT 10.15."""
SINCE = {
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
    "DFT": (11, 2),
}
"""First version that is documented to take an operator; the others are in the list of 10.0 too."""
OPSETS = (((11, 5), 25), ((10, 15), 24), ((10, 14), 23), ((10, 0), 20))
"""Version, and the newest opset it is documented to read. 10.14 took Attention, which opset 23 brought."""
OLDEST_OPSET = 9
TYPES = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "INT32", "INT64", "BOOL", "UINT8", "INT8"})
"""Element types of tensors; FLOAT8 and 4-bit types occur between quantise and dequantise only."""


def parse_target(text: str) -> tuple[int, int]:
    """Return ``"10.15"`` as (10, 15).

    Raises
    ------
    InputError
        Not of that form, or older than 10.0.
    """
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]) or int(parts[0]) < 10:
        raise InputError(
            f"--target {text}: write a TensorRT version from 10.0 on, as 10.15 or 11.0"
        )
    return int(parts[0]), int(parts[1])


def newest_opset(target: tuple[int, int]) -> int:
    """Return the newest opset that TensorRT ``target`` is documented to read."""
    return next(opset for since, opset in OPSETS if target >= since)


def takes(operator: str, target: tuple[int, int]) -> bool:
    """Return whether TensorRT ``target`` is documented to take ``operator``."""
    if operator in SINCE:
        return target >= SINCE[operator]
    return operator in SUPPORTED
