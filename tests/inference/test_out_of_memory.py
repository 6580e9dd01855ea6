"""Which errors say that memory ran out."""

import numpy as np
import pytest

from atrous.inference.any_size import is_out_of_memory


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "Failed to allocate 8589934592 bytes of memory",
        "std::bad_alloc",
    ],
)
def test_errors_of_all_allocators_are_recognised(text: str):
    assert is_out_of_memory(RuntimeError(text))


def test_an_array_that_numpy_cannot_allocate_is_recognised():
    with pytest.raises(MemoryError, match="Unable to allocate") as caught:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(RuntimeError(str(caught.value)))


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_other_errors_are_not(text: str):
    assert not is_out_of_memory(RuntimeError(text))
