"""Recognises out-of-memory errors of Python, torch, NumPy and GPUs."""

from __future__ import annotations

#: Lower-case parts of out-of-memory messages of torch, C++, CUDA's libraries, NumPy and OpenVINO.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the memory of the CPU or of a GPU was exhausted.

    Args:
        error: an error of any type; types other than MemoryError are recognised by their message.
    """
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)
