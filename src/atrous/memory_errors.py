"""Recognises errors of memory that ran out: Python's, torch's, NumPy's, a GPU's."""

from __future__ import annotations

#: What errors say, in small letters, where memory ran out: torch, C++, CUDA's libraries, numpy and OpenVINO.
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
    """Whether an error says that memory ran out: Python's, the processor's allocator's or a GPU's.

    Args:
        error: of any type; others than MemoryError are recognised by their words.
    """
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY)
