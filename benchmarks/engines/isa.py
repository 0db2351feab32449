"""What a process may use of the processor: taking AMX away, and finding out who asked for it.

Linux gives a process AMX only after it asks (arch_prctl, ARCH_REQ_XCOMP_PERM). A filter that
answers "not permitted" therefore works on every engine alike, also on those without a setting.
"""

import ctypes
import os
import platform
import struct

AVX512 = "avx512_vnni"
VARIABLES = {
    AVX512: {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "POLYRANK_ISA": "avx512"},
    "avx512bw": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "POLYRANK_ISA": "avx512bw"},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "CT2_FORCE_CPU_ISA": "AVX2",
        "POLYRANK_ISA": "avx2",
    },
}
CHOICES = ("all", *VARIABLES)
DENIED_VNNI = ("avx512bw", "avx2")
UNTOLD = "ONNX Runtime asks the processor and no variable, so it keeps VNNI"

_ARCH_PRCTL = 158
_ASK, _ASKED = 0x1023, 0x1022
_TILE_DATA = 18
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the latter: errno 1, EPERM
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


def variables(isa: str) -> dict[str, str]:
    """Return what the environment of a process needs, for libraries that read it."""
    return VARIABLES.get(isa, {})


def restrict(isa: str) -> None:
    """Refuse AMX to this process from now on, unless all may be used.

    Raises:
        OSError: If the kernel takes no filter.
    """
    if isa == "all" or platform.machine() != "x86_64":
        return
    program = b"".join(
        struct.pack("HBBI", *step)
        for step in (
            (_LOAD, 0, 0, 0),  # number of the call
            (_EQUAL, 0, 3, _ARCH_PRCTL),
            (_LOAD, 0, 0, 16),  # its first argument
            (_EQUAL, 0, 1, _ASK),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    held = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        _SECCOMP, ctypes.c_ulong(_FILTER), ctypes.create_string_buffer(header), zero, zero
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def has_asked_for_amx() -> bool:
    """Return whether something in this process asked for AMX and got it."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    found = ctypes.c_ulong(0)
    failed = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASKED, ctypes.byref(found))
    return not failed and bool(found.value >> _TILE_DATA & 1)
