"""The operators that a classifier needs: none reads or writes a file, opens a library, prints, or calls Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ATEN = frozenset(
    """
    Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index __getitem__ __is__
    __isnot__ __not__ __or__ __range_length _convolution _native_multi_head_attention _set_item
    _transformer_encoder_layer_fwd abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d add add_ addcmul addmm all amax amin any append arange argmax argmin argsort avg_pool1d
    avg_pool2d avg_pool3d baddbmm batch_norm bernoulli_ bitwise_and bitwise_not bitwise_or bmm cat ceil celu
    channel_shuffle chunk clamp clamp_ clamp_max clamp_min clone concat constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose2d copy copy_ cos cumsum detach device dim div div_ dropout dropout_ einsum elu elu_ embedding empty
    eq erf exp expand expand_as feature_dropout fill_ flatten flip floor floor_divide floordiv format full full_like
    gather ge gelu glu group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index index_select
    instance_norm is_autocast_enabled is_floating_point is_grad_enabled layer_norm le leaky_relu leaky_relu_ len lerp
    linalg_vector_norm linear list log log_sigmoid log_softmax logical_and logical_not logical_or logsumexp lt
    masked_fill masked_fill_ matmul max max_pool1d max_pool2d max_pool3d maximum mean meshgrid min minimum mish mish_ mm
    movedim mul mul_ narrow ne neg new_full new_ones new_zeros norm numel one_hot ones ones_like outer pad permute
    pixel_shuffle pixel_unshuffle pow prelu reciprocal reflection_pad2d relu relu6 relu6_ relu_ remainder repeat
    repeat_interleave replication_pad2d reshape rms_norm roll round rsqrt rsub scaled_dot_product_attention select selu
    selu_ sigmoid sigmoid_ sign silu silu_ sin size slice softmax softplus sort split split_with_sizes sqrt square
    squeeze stack std std_mean sub sub_ sum swapaxes t tan tanh tanh_ tensor threshold tile to topk transpose tril triu
    true_divide type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view view_as warn where
    zeros zeros_like
    """.split()  # noqa: SIM905
)
PRIM = frozenset(
    """
    Constant DictConstruct GetAttr If ListConstruct ListUnpack Loop NumToTensor RaiseException TupleConstruct
    TupleIndex TupleUnpack Uninitialized data device dtype is_cuda is_nested layout max min ndim requires_grad shape
    type unchecked_cast
    """.split()  # noqa: SIM905
)
ALLOWED = {f"aten::{name}" for name in ATEN} | {f"prim::{name}" for name in PRIM}


def unknown_operators(graph: Any) -> list[str]:
    """Return the operators in a graph of TorchScript that no classifier needs, in order of their names."""
    return sorted(set(_operators(graph)) - ALLOWED)


def _operators(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield str(node.kind())
        for inner in node.blocks():
            yield from _operators(inner)
